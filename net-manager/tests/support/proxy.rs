//! A line to the broker that can be cut.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Mutex,
    task::JoinSet,
};

use super::cluster;

pub const PORT: u16 = 18_831;

/// Forwards connections to the broker while it is up.
pub struct Line {
    connections: Arc<Mutex<Option<JoinSet<()>>>>,
}

impl Line {
    pub async fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", PORT)).await.unwrap();
        let connections = Arc::new(Mutex::new(Some(JoinSet::new())));
        let accepted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                // While the line is cut, whoever connects is cut off at once.
                if let Some(connections) = accepted.lock().await.as_mut() {
                    connections.spawn(async move {
                        let mut far =
                            TcpStream::connect(("127.0.0.1", cluster::PORT)).await.unwrap();
                        if copy_bidirectional(&mut near, &mut far).await.is_err() {
                            // One end hung up.
                        }
                    });
                }
            }
        });
        Self { connections }
    }

    /// Cuts every connection, and every new one.
    pub async fn cut(&self) {
        self.connections.lock().await.take();
    }

    pub async fn restore(&self) {
        *self.connections.lock().await = Some(JoinSet::new());
    }
}
