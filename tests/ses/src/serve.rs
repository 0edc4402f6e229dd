//! Connections: HTTP/1.1, and a way to lose an answer.

use crate::answer::Lost;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

/// Serves until it is dropped; all connections end with it.
pub(crate) async fn serve(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, router.clone()));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let response: Response = match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            // An error here makes hyper close the connection without writing a byte.
            if response.extensions().get::<Lost>().is_some() {
                return Err(std::io::Error::other("lost, as told"));
            }
            Ok(response)
        }
    });
    // Ends when the client leaves, or the answer was to be lost.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}
