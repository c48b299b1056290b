//! What continuous WAL asks of whoever makes backups: a first one, and one behind every gap.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The standing order of one cluster. It is no queue: one backup carries out all that was ordered before it began.
#[derive(Debug, Default)]
pub struct Orders {
    why: Mutex<Option<String>>,
    bell: Notify,
}

impl Orders {
    /// Orders a base backup; the first reason stays until it is carried out.
    pub fn order(&self, why: String) {
        self.why.lock().get_or_insert(why);
        self.bell.notify_one();
    }

    /// Why a base backup is wanted, if it is.
    #[must_use]
    pub fn ordered(&self) -> Option<String> {
        self.why.lock().clone()
    }

    /// Waits until there is an order.
    pub async fn wait(&self) -> String {
        loop {
            if let Some(why) = self.ordered() {
                return why;
            }
            self.bell.notified().await;
        }
    }

    /// The order that said `why` has been carried out. One that came meanwhile stays.
    pub fn carried_out(&self, why: &str) {
        let mut standing = self.why.lock();
        if standing.as_deref() == Some(why) {
            *standing = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_stands_until_it_is_carried_out_and_no_longer() {
        let orders = Orders::default();
        orders.order("a gap at 1".to_owned());
        orders.order("a gap at 2".to_owned());
        assert_eq!(orders.wait().await, "a gap at 1", "the first reason");
        orders.carried_out("something else");
        assert!(orders.ordered().is_some());
        orders.carried_out("a gap at 1");
        assert_eq!(orders.ordered(), None);
    }
}
