//! A relay in front of a Redis, which can simulate a bad network.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Maximum number of chunks under way in one direction of a connection.
const ON_THE_WAY: usize = 1024;

/// The behaviour of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Link {
    /// Bytes pass.
    #[default]
    Pass,
    /// Bytes take this long from Redis to the client.
    Late(Duration),
    /// Bytes take this long in each direction.
    Far(Duration),
    /// This many bytes pass per second in each direction, over all connections, in portions of a millisecond.
    Narrow(u32),
    /// Bytes are held until the link changes.
    Hole,
    /// Connections are closed, and new ones at once.
    Cut,
}

/// A kind of connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Carrying {
    /// Connections that carry commands.
    Commands = 0,
    /// Connections with a subscription.
    Messages = 1,
    /// Connections that were set aside.
    Aside = 2,
}

const ASIDE: usize = Carrying::Aside as usize;

/// A change of a link when a client sends a word.
type Trigger = Option<(&'static str, Carrying, Link)>;

/// A port that leads to a Redis.
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    links: [watch::Sender<Link>; 3],
    trigger: watch::Sender<Trigger>,
    /// The word that sets connections aside, and the number of connections left to set aside.
    aside: Mutex<Option<(&'static str, usize)>>,
    /// The time at which each direction of a narrow link is free again.
    free: [Mutex<Option<Instant>>; 2],
}

impl Relay {
    /// Starts a relay to the Redis at `port`.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let shared = Arc::new(Shared {
            links: Default::default(),
            trigger: watch::Sender::default(),
            aside: Mutex::default(),
            free: Default::default(),
        });
        let relay_port = listener.local_addr().expect("a bound listener has an address").port();
        let accepting = tokio::spawn(accept(listener, port, shared.clone()));
        Self { port: relay_port, shared, accepting }
    }

    /// Returns its URL for jobtrack.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Changes the link of some connections.
    pub fn set(&self, carrying: Carrying, link: Link) {
        self.shared.links[carrying as usize].send_replace(link);
    }

    /// Changes the link of all connections.
    pub fn set_all(&self, link: Link) {
        self.set(Carrying::Commands, link);
        self.set(Carrying::Messages, link);
    }

    /// Blocks the next `count` connections that send `word`, including that command.
    pub fn set_aside(&self, word: &'static str, count: usize) {
        self.shared.links[ASIDE].send_replace(Link::Hole);
        *self.shared.aside() = Some((word, count));
    }

    /// Returns whether all connections to be set aside were met.
    pub fn has_set_aside(&self) -> bool {
        self.shared.aside().is_some_and(|(_, more)| more == 0)
    }

    /// Unblocks the connections that were set aside, and sets aside no more.
    pub fn release(&self) {
        *self.shared.aside() = None;
        self.shared.links[ASIDE].send_replace(Link::Pass);
    }

    /// Changes a link when the next client sends `word`, before the word is forwarded.
    pub fn set_at(&self, word: &'static str, carrying: Carrying, link: Link) {
        self.shared.trigger.send_replace(Some((word, carrying, link)));
    }

    /// Waits until the last word of [`set_at`](Self::set_at) was sent.
    pub async fn said(&self) {
        self.shared.trigger.subscribe().wait_for(Option::is_none).await.expect("the relay is there");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.links.iter().for_each(|link| _ = link.send_replace(Link::Cut));
    }
}

async fn accept(listener: TcpListener, port: u16, shared: Arc<Shared>) {
    loop {
        let (client, _) = listener.accept().await.expect("a connection can be accepted");
        tokio::spawn(connect(client, port, shared.clone()));
    }
}

/// Forwards one connection, until one side ends it or it is cut.
async fn connect(client: TcpStream, port: u16, shared: Arc<Shared>) {
    let Ok(redis) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    for stream in [&client, &redis] {
        stream.set_nodelay(true).expect("an open connection");
    }
    let ((from_client, to_client), (from_redis, to_redis)) = (client.into_split(), redis.into_split());
    let carrying = AtomicUsize::new(Carrying::Commands as usize);
    tokio::select! {
        () = lead(from_client, to_redis, true, &carrying, &shared) => {}
        () = lead(from_redis, to_client, false, &carrying, &shared) => {}
    }
}

/// Forwards one direction: to Redis if `there`, or back.
async fn lead(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, there: bool, carrying: &AtomicUsize, shared: &Shared) {
    let (arrived, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let link = || &shared.links[carrying.load(Relaxed)];
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if there {
                listen(&buffer[..length], carrying, shared);
            }
            // On a narrow link, other connections get their turn in between.
            let rate = if let Link::Narrow(rate) = *link().borrow() { rate as usize } else { usize::MAX };
            for chunk in buffer[..length].chunks((rate / 1000).max(1)) {
                if arrived.send((Instant::now(), chunk.to_vec())).await.is_err() {
                    return;
                }
            }
        }
    };
    let write = async {
        while let Some((arrived, chunk)) = on_the_way.recv().await {
            let mut link = link().subscribe();
            if !shared.pass(&mut link, arrived, chunk.len(), there).await || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    let cut = async {
        // The connection may have changed its kind meanwhile.
        let mut all = [0, 1, 2].map(|carrying| shared.links[carrying].subscribe());
        let [commands, messages, aside] = &mut all;
        while *link().borrow() != Link::Cut {
            tokio::select! { _ = commands.changed() => {} _ = messages.changed() => {} _ = aside.changed() => {} }
        }
    };
    tokio::select! { () = read => {} () = write => {} () = cut => {} }
}

/// Inspects the bytes that a client sends.
fn listen(bytes: &[u8], carrying: &AtomicUsize, shared: &Shared) {
    let said = |word: &str| bytes.windows(word.len()).any(|part| part == word.as_bytes());
    if said("SUBSCRIBE") {
        carrying.store(Carrying::Messages as usize, Relaxed);
    }
    if let Some((_, count)) = shared.aside().as_mut().filter(|(word, count)| *count > 0 && said(word)) {
        *count -= 1;
        carrying.store(ASIDE, Relaxed);
    }
    shared.trigger.send_if_modified(|trigger| {
        let heard = trigger.take_if(|(word, ..)| said(word));
        if let Some((_, carrying, link)) = heard {
            shared.links[carrying as usize].send_replace(link);
        }
        heard.is_some()
    });
}

impl Shared {
    fn aside(&self) -> MutexGuard<'_, Option<(&'static str, usize)>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until bytes that arrived at the time `arrived` may pass. Returns `false` if they never may.
    async fn pass(&self, link: &mut watch::Receiver<Link>, arrived: Instant, length: usize, there: bool) -> bool {
        let mut booked = None;
        loop {
            let now = *link.borrow_and_update();
            let due = match now {
                Link::Pass => return true,
                Link::Late(_) if there => return true,
                Link::Late(time) | Link::Far(time) => Some(arrived + time),
                Link::Narrow(rate) => Some(*booked.get_or_insert_with(|| self.book(arrived, length, rate, there))),
                Link::Hole => None,
                Link::Cut => return false,
            };
            tokio::select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return true,
                _ = link.changed() => {}
            }
        }
    }

    /// Reserves a narrow link for bytes that arrived at the time `arrived`. Returns the time at which they have passed.
    fn book(&self, arrived: Instant, length: usize, rate: u32, there: bool) -> Instant {
        let mut free = self.free[usize::from(there)].lock().unwrap_or_else(PoisonError::into_inner);
        let through = free.map_or(arrived, |free| free.max(arrived)) + Duration::from_secs(length as u64) / rate;
        *free = Some(through);
        through
    }
}
