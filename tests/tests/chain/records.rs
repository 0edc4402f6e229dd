//! What `delivery-log` keeps, read from the database itself.

use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use sandpost_services::Server;
use std::collections::BTreeMap;
use tokio::runtime::Handle;

/// Its collection.
pub struct Records {
    collection: Collection<Document>,
    io: Handle,
}

impl Records {
    /// In this database. Connects once it is asked for something.
    pub fn of_database(io: &Handle, server: &Server, database: &str) -> Self {
        let client = io.block_on(Client::with_uri_str(server.url())).expect("an address");
        Self { collection: client.database(database).collection("deliveries"), io: io.clone() }
    }

    /// The id of the message that the notification's record is from, where there is one.
    pub fn of(&self, notification: &str) -> Option<String> {
        let found = self.io.block_on(async { self.collection.find_one(doc! { "_id": notification }).await });
        found.expect("the database answers").map(|record| message(&record))
    }

    /// The same for every notification that has a record.
    pub fn all(&self) -> BTreeMap<String, String> {
        self.io.block_on(async {
            let mut records = BTreeMap::new();
            let mut found = self.collection.find(doc! {}).await.expect("the database answers");
            while found.advance().await.expect("the database answers") {
                let record: Document = found.deserialize_current().expect("a record");
                assert_eq!(record.get_str("status").ok(), Some("sent"), "{record}");
                records.insert(record.get_str("_id").expect("an id").to_owned(), message(&record));
            }
            records
        })
    }
}

fn message(record: &Document) -> String {
    record.get_str("messageId").expect("a message").to_owned()
}
