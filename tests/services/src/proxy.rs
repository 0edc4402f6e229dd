//! A connection that goes wrong on command: stands between a client and a server and delays, holds, cuts, refuses.
//!
//! Invariants
//! - When a command returns, it is in force: for what is open and for what comes.
//! - No byte is lost, doubled or changed, but for what a cut or a refusal takes with its connection. What is held is
//!   delivered when the connection goes well again, as after a partition.
//! - It runs on a thread and a clock of its own: a test may pause its time or block, the proxy goes on.

use crate::port::Port;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A proxy before one server. Lets everything pass until it is told otherwise; ends with all its connections on drop.
///
/// Its methods block, for microseconds: until the command is in force. They can be called from asynchronous code.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    /// None only while it is dropped.
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
    _port: Port,
}

/// How the proxy treats what goes through it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Pass,
    BlackHole,
    HoldAnswers,
    Delay(Duration),
    Trickle { bytes: usize, every: Duration },
}

#[derive(Debug)]
enum Action {
    Become(Mode),
    Refuse,
    Cut,
}

/// A command and whom to tell that it is in force.
type Command = (Action, std::sync::mpsc::Sender<()>);

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Answer,
}

impl Proxy {
    /// A proxy before the server at this address, on a port of its own. It need not be there yet.
    ///
    /// # Panics
    /// When this machine lets it have neither a thread nor a port.
    pub fn before(server: SocketAddr) -> Self {
        let port = Port::reserve();
        let address = port.address();
        let counts = Arc::new(Counts::default());
        let (commands, inbox) = mpsc::unbounded_channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let counted = Arc::clone(&counts);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let thread = std::thread::Builder::new()
            .name("sandpost-proxy".to_owned())
            .spawn(move || {
                runtime.block_on(run(address, server, inbox, &counted, ready));
            })
            .expect("a thread");
        is_ready.recv().expect("the proxy listens");
        Self { address, counts, commands: Some(commands), thread: Some(thread), _port: port }
    }

    /// Where a client connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything goes through as it comes, also what was held, and new connections are taken.
    pub fn pass(&self) {
        self.tell(Action::Become(Mode::Pass));
    }

    /// New connections are refused, as where nothing listens, and open ones are reset: the server is gone.
    pub fn refuse(&self) {
        self.tell(Action::Refuse);
    }

    /// Nothing goes through in either direction, and nothing is closed: the network is gone. New connections are
    /// taken, and never answered.
    pub fn black_hole(&self) {
        self.tell(Action::Become(Mode::BlackHole));
    }

    /// Requests go through and are carried out; their answers are held. What the client must call an unknown outcome.
    pub fn hold_answers(&self) {
        self.tell(Action::Become(Mode::HoldAnswers));
    }

    /// Each piece that arrives goes on so much later, in both directions: a round trip takes at least twice that.
    pub fn delay(&self, delay: Duration) {
        self.tell(Action::Become(Mode::Delay(delay)));
    }

    /// So many bytes go on at a time, in both directions, with so long a pause after each.
    ///
    /// # Panics
    /// With no bytes at a time: that is [`Proxy::black_hole`].
    pub fn trickle(&self, bytes: usize, every: Duration) {
        assert!(bytes > 0, "at least one byte at a time");
        self.tell(Action::Become(Mode::Trickle { bytes, every }));
    }

    /// Resets what is open, in the middle of whatever it does. New connections are taken as before.
    pub fn cut(&self) {
        self.tell(Action::Cut);
    }

    /// How many connections it took since it is there.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    fn tell(&self, action: Action) {
        let (done, is_done) = std::sync::mpsc::channel();
        let told = self.commands.as_ref().is_some_and(|commands| commands.send((action, done)).is_ok());
        assert!(told && is_done.recv().is_ok(), "the proxy has stopped");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Serves until nobody can command any more.
async fn run(
    address: SocketAddr,
    server: SocketAddr,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    counts: &Arc<Counts>,
    ready: std::sync::mpsc::Sender<()>,
) {
    let (mode, _) = watch::channel(Mode::Pass);
    let (cut, _) = watch::channel(());
    let mut connections = JoinSet::new();
    let Some(first) = listen(address).await else { return };
    let mut listener = Some(first);
    _ = ready.send(());
    loop {
        tokio::select! {
            biased;
            command = inbox.recv() => {
                let Some((action, done)) = command else { break };
                match action {
                    Action::Become(next) => {
                        mode.send_replace(next);
                        if listener.is_none() {
                            let Some(again) = listen(address).await else { break };
                            listener = Some(again);
                        }
                    }
                    Action::Refuse => {
                        // The connections that wait to be taken are reset with it.
                        listener = None;
                        cut.send_replace(());
                        while connections.join_next().await.is_some() {}
                    }
                    Action::Cut => {
                        // Also those that the system took for us meanwhile.
                        if let Some(listener) = &listener {
                            while let Ok(accepted) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
                                if let Ok((client, _)) = accepted {
                                    drop(client.set_zero_linger());
                                }
                            }
                        }
                        cut.send_replace(());
                        while connections.join_next().await.is_some() {}
                    }
                }
                _ = done.send(());
            }
            accepted = accept(listener.as_ref()) => {
                if let Ok((client, _)) = accepted {
                    counts.accepted.fetch_add(1, Ordering::SeqCst);
                    counts.open.fetch_add(1, Ordering::SeqCst);
                    let (mode, cut, counts) = (mode.subscribe(), cut.subscribe(), Arc::clone(counts));
                    connections.spawn(async move {
                        connection(client, server, mode, cut).await;
                        counts.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    cut.send_replace(());
    while connections.join_next().await.is_some() {}
}

/// The port is ours; the system may still hold it for a moment.
async fn listen(address: SocketAddr) -> Option<TcpListener> {
    for _ in 0..250 {
        if let Ok(listener) = TcpListener::bind(address).await {
            return Some(listener);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// One client's connection, from its first byte to its end or its cut.
async fn connection(
    mut client: TcpStream,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    mut cut: watch::Receiver<()>,
) {
    let mut behind = None;
    let whole = tokio::select! {
        biased;
        _ = cut.changed() => false,
        done = serve(&mut client, &mut behind, server, &mut mode) => done.is_ok(),
    };
    if !whole {
        // A reset, not an end: both sides see that it was cut.
        drop(client.set_zero_linger());
        if let Some(behind) = behind {
            drop(behind.set_zero_linger());
        }
    }
}

async fn serve(
    client: &mut TcpStream,
    behind: &mut Option<TcpStream>,
    server: SocketAddr,
    mode: &mut watch::Receiver<Mode>,
) -> std::io::Result<()> {
    // In a black hole not even the connection gets through.
    mode.wait_for(|mode| *mode != Mode::BlackHole).await.map_err(std::io::Error::other)?;
    let behind = behind.insert(TcpStream::connect(server).await?);
    client.set_nodelay(true)?;
    behind.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = behind.split();
    tokio::try_join!(
        pump(from_client, to_server, Direction::Request, mode.clone()),
        pump(from_server, to_client, Direction::Answer, mode.clone()),
    )?;
    Ok(())
}

/// Carries one direction to its end, under the mode that is in force for each piece.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut mode: watch::Receiver<Mode>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let arrived = Instant::now();
        let mut rest = &buffer[..length];
        loop {
            let at_once = gate(&mut mode, direction, arrived, rest.len()).await?;
            if length == 0 {
                return to.shutdown().await;
            }
            let (now, later) = rest.split_at(at_once);
            to.write_all(now).await?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    }
}

/// Waits until something may go on, and says how much of it: of what arrived then and is so long.
async fn gate(
    mode: &mut watch::Receiver<Mode>,
    direction: Direction,
    arrived: Instant,
    length: usize,
) -> std::io::Result<usize> {
    loop {
        let current = *mode.borrow_and_update();
        let (until, at_once) = match current {
            Mode::Pass => return Ok(length),
            Mode::HoldAnswers if direction == Direction::Request => return Ok(length),
            Mode::BlackHole | Mode::HoldAnswers => (None, 0),
            Mode::Delay(delay) => (Some(arrived + delay), length),
            Mode::Trickle { bytes, every } => (Some(Instant::now() + every), bytes.min(length)),
        };
        let wait = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = mode.changed() => changed.map_err(std::io::Error::other)?,
            () = wait => return Ok(at_once),
        }
    }
}
