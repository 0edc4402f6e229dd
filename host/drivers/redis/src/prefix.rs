//! Deleting by prefix: `SCAN` and `UNLINK` in batches, node by node, so that Redis answers others in between.

use crate::link::Line;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{Cmd, ErrorKind, RedisResult, Value};
use std::collections::BTreeSet;

/// Deletes what begins with `prefix`, taken literally; how many there were.
pub(crate) async fn delete(line: Line, prefix: &str, batch_max: usize) -> RedisResult<u64> {
    let pattern = format!("{}*", literally(prefix));
    match line {
        Line::One { .. } => of_node(line, None, &pattern, batch_max).await,
        Line::Many { .. } => {
            let mut deleted = 0;
            for node in masters(line.clone()).await? {
                deleted += of_node(line.clone(), Some(node), &pattern, batch_max).await?;
            }
            Ok(deleted)
        }
    }
}

type Node = (String, u16);

async fn of_node(mut line: Line, node: Option<Node>, pattern: &str, batch_max: usize) -> RedisResult<u64> {
    let (mut cursor, mut deleted) = (0_u64, 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(batch_max);
        let found = to_node(&mut line, node.as_ref(), scan).await?;
        let (next, keys): (u64, Vec<Vec<u8>>) = FromValue::read(found)?;
        for keys in keys.chunks(batch_max) {
            deleted += unlink(&mut line, keys).await?;
        }
        if next == 0 {
            return Ok(deleted);
        }
        cursor = next;
    }
}

/// On a cluster the client sends each key to its node.
async fn unlink(line: &mut Line, keys: &[Vec<u8>]) -> RedisResult<u64> {
    redis::cmd("UNLINK").arg(keys).query_async(line).await
}

async fn to_node(line: &mut Line, node: Option<&Node>, command: Cmd) -> RedisResult<Value> {
    match (line, node) {
        (Line::Many { cluster, .. }, Some((host, port))) => {
            let there = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
            cluster.route_command(command, RoutingInfo::SingleNode(there)).await
        }
        (line, _) => command.query_async(line).await,
    }
}

/// The nodes that hold keys, from `CLUSTER SLOTS`: `[from, to, [host, port, …], replicas…]` for each range of slots.
async fn masters(mut line: Line) -> RedisResult<BTreeSet<Node>> {
    let answer: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut line).await?;
    let ranges: Vec<Vec<Value>> = FromValue::read(answer)?;
    let node = |mut range: Vec<Value>| -> RedisResult<Node> {
        if range.len() < 3 {
            return Err((ErrorKind::Parse, "CLUSTER SLOTS names no node").into());
        }
        let mut master: Vec<Value> = FromValue::read(range.swap_remove(2))?;
        if master.len() < 2 {
            return Err((ErrorKind::Parse, "CLUSTER SLOTS names no address").into());
        }
        master.truncate(2);
        let port: u16 = FromValue::read(master.swap_remove(1))?;
        Ok((FromValue::read(master.swap_remove(0))?, port))
    };
    ranges.into_iter().map(node).collect()
}

/// The pattern that matches this text and nothing else.
fn literally(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// Reading a value with the error of a command.
trait FromValue: Sized {
    fn read(value: Value) -> RedisResult<Self>;
}

impl<T: redis::FromRedisValue> FromValue for T {
    fn read(value: Value) -> RedisResult<Self> {
        Ok(T::from_redis_value(value)?)
    }
}

#[cfg(test)]
mod tests {
    use super::literally;

    #[test]
    fn what_means_something_in_a_pattern_is_escaped() {
        assert_eq!(literally("vibe:user[1]*?\\"), "vibe:user\\[1\\]\\*\\?\\\\");
        assert_eq!(literally("plain:ção"), "plain:ção");
    }
}
