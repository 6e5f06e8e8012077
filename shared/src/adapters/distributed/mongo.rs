//! The MongoDB database handle: majority, journaled writes, reads from the primary, every call bounded in time.

use std::future::Future;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::{
    Acknowledgment, ClientOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Database};

use crate::ports::{PortError, Result};

const SERVER_SELECTION: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(2);
/// A call unanswered for so long failed (it may have been carried out). The driver itself would wait for a stalled
/// server without end.
const CALL: Duration = Duration::from_secs(10);

/// Opens the database, and waits until it answers. A server without transactions is refused: nothing could be archived there.
pub async fn connect(url: &str, db_name: &str) -> Result<Database> {
    let mut options = ClientOptions::parse(url)
        .await
        .map_err(|e| PortError::fatal("parse MONGO_URL", e))?;
    options.app_name = Some("atelier".into());
    options.server_selection_timeout = Some(SERVER_SELECTION);
    options.connect_timeout = Some(CONNECT);
    // Whatever the URL says: the epoch rule compares what the log and the archive say one after the other, and a
    // secondary may be behind.
    options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
    options.write_concern = Some(durable());
    options.read_concern = Some(ReadConcern::majority());
    let client =
        Client::with_options(options).map_err(|e| PortError::fatal("configure MongoDB", e))?;
    let database = client.database(db_name);
    let hello = bounded("ask MongoDB what it is", async {
        database.run_command(doc! { "hello": 1 }).await
    });
    if !has_transactions(&hello.await?) {
        return Err(PortError::fatal(
            "connect to MongoDB",
            "a replica set is needed, and this is a server alone, which has no transactions: start it with --replSet and call rs.initiate() once (one member is enough)",
        ));
    }
    Ok(database)
}

/// By what it says of itself: a member of a replica set, or a router of several.
fn has_transactions(hello: &Document) -> bool {
    hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|told| told == "isdbgrid")
}

/// In the journals of a majority before it is acknowledged.
pub fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

pub async fn ping(database: &Database) -> Result<()> {
    bounded("ping MongoDB", async {
        database.run_command(doc! { "ping": 1 }).await?;
        Ok(())
    })
    .await
}

/// Runs one call against its time limit and names it where it fails.
pub async fn bounded<T>(
    operation: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T> {
    match tokio::time::timeout(CALL, call).await {
        Ok(outcome) => outcome.map_err(|e| port_error(operation, e)),
        Err(_) => {
            let reason = format!("MongoDB did not answer in {} s", CALL.as_secs());
            Err(PortError::retry(operation, reason))
        }
    }
}

/// Server error codes that pass: shutdown, stepping down, election, conflict, a write or time limit not met.
const TRANSIENT_CODES: [i32; 18] = [
    6, 7, 50, 64, 89, 91, 100, 112, 133, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436,
];

/// Is it worth trying again? By kind, label and code, never by text.
pub fn port_error(operation: &'static str, error: Error) -> PortError {
    let transient = error.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR)
        || error.contains_label(mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT)
        || error.contains_label("RetryableWriteError")
        || match &*error.kind {
            ErrorKind::Io(_)
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. } => true,
            ErrorKind::Command(e) => TRANSIENT_CODES.contains(&e.code),
            ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
            ErrorKind::InsertMany(e) => e.write_concern_error.is_some(),
            _ => false,
        };
    if transient {
        PortError::retry(operation, error)
    } else {
        PortError::fatal(operation, error)
    }
}

/// Did a unique index refuse it?
pub fn is_duplicate_key(error: &Error) -> bool {
    const DUPLICATE_KEY: i32 = 11_000;
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(e)) => e.code == DUPLICATE_KEY,
        ErrorKind::Command(e) => e.code == DUPLICATE_KEY,
        ErrorKind::InsertMany(e) => e
            .write_errors
            .iter()
            .flatten()
            .any(|e| e.code == DUPLICATE_KEY),
        _ => false,
    }
}
