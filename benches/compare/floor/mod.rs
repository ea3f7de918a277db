//! The floor: a server that only answers the measured calls, over the same transport and messages.

mod map;
mod redis;
mod service;

use jobtrack::proto::v1::job_service_server::JobServiceServer;
use tokio::net::TcpListener;
use tonic::transport::{Server, server::TcpIncoming};

use self::{redis::Link, service::Floor};

/// Maximum number of concurrent calls on a connection, as in jobtrack.
const STREAMS: u32 = 1000;

/// Options of the floor.
#[derive(clap::Args)]
pub struct Arguments {
    /// Keep jobs in the Redis at this address, too, over one shared connection
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Use a stock connection pool, in which a connection belongs to one call at a time
    #[arg(long, requires = "redis")]
    stock: bool,
}

/// Serves on a free port until the process is killed. The first line of output names the port.
pub async fn serve(arguments: Arguments) {
    let link = match arguments.redis {
        None => None,
        Some(url) if arguments.stock => Some(Link::stock(&url).await),
        Some(url) => Some(Link::shared(&url).await),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
    println!("floor listening on {}", listener.local_addr().expect("it is bound"));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = JobServiceServer::new(Floor::new(link));
    let mut server = Server::builder().max_concurrent_streams(Some(STREAMS));
    server.add_service(service).serve_with_incoming(incoming).await.expect("it serves");
}
