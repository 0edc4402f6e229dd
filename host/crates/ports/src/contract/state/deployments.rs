//! Deployments.

use super::{T0_MS, random_name};
use crate::state::{Deployment, State};
use sandpost_message::{Digest, PluginName};

pub(super) async fn the_newest_is_live(state: &dyn State) {
    let plugin = || random_name("plugin").replace('_', "-").parse::<PluginName>().unwrap();
    let (one, two, unknown) = (plugin(), plugin(), plugin());
    let deployment = |plugin: &PluginName, number: u8| Deployment {
        plugin: plugin.clone(),
        version: format!("1.0.{number}"),
        digest: Digest::from_bytes([number; 32]),
        // The clock went back in between: what was recorded last is live all the same.
        deployed_at_ms: T0_MS - u64::from(number),
        cause: "file".to_owned(),
    };
    for number in 1..=3 {
        state.record_deployment(deployment(&one, number)).await.unwrap();
        state.record_deployment(deployment(&two, 10 + number)).await.unwrap();
    }
    // Back to the first: the same artifact is another deployment.
    state.record_deployment(deployment(&one, 1)).await.unwrap();

    let history = [1, 3, 2, 1].map(|number| deployment(&one, number));
    assert_eq!(state.deployments(&one, 100).await.unwrap(), history);
    assert_eq!(state.deployments(&one, 2).await.unwrap(), history[..2]);
    assert!(state.deployments(&unknown, 100).await.unwrap().is_empty());
    let live = state.live_deployments().await.unwrap();
    let of = |plugin| live.iter().filter(|deployment| deployment.plugin == plugin).cloned().collect::<Vec<_>>();
    assert_eq!(of(one.clone()), [deployment(&one, 1)]);
    assert_eq!(of(two.clone()), [deployment(&two, 13)]);
    assert!(of(unknown).is_empty());
}
