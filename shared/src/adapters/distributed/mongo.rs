//! The MongoDB database handle: majority, journaled writes.

use std::time::Duration;

use mongodb::error::ErrorKind;
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, WriteConcern};
use mongodb::{Client, Database};

use crate::ports::{PortError, Result};

const SERVER_SELECTION: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(2);

pub async fn connect(url: &str, db_name: &str) -> Result<Database> {
    let mut options = ClientOptions::parse(url)
        .await
        .map_err(|e| PortError::fatal("parse MONGO_URL", e))?;
    options.app_name = Some("atelier".into());
    options.server_selection_timeout = Some(SERVER_SELECTION);
    options.connect_timeout = Some(CONNECT);
    options.write_concern = Some(
        WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .build(),
    );
    options.read_concern = Some(ReadConcern::majority());
    let client =
        Client::with_options(options).map_err(|e| PortError::fatal("configure MongoDB", e))?;
    let database = client.database(db_name);
    database
        .run_command(mongodb::bson::doc! { "ping": 1 })
        .await
        .map_err(|e| PortError::retry("connect to MongoDB", e))?;
    Ok(database)
}

/// Is it worth trying again? By kind and label, never by text.
pub fn port_error(operation: &'static str, error: mongodb::error::Error) -> PortError {
    let transient = error.contains_label("TransientTransactionError")
        || error.contains_label("RetryableWriteError")
        || matches!(
            *error.kind,
            ErrorKind::Io(_)
                | ErrorKind::ServerSelection { .. }
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::DnsResolve { .. }
        );
    if transient {
        PortError::retry(operation, error)
    } else {
        PortError::fatal(operation, error)
    }
}
