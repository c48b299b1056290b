//! What continuous WAL asks of whoever makes backups: a first one, and one behind every gap.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The standing order of one cluster. It is no queue: one backup carries out all that was ordered before it began.
#[derive(Debug, Default)]
pub struct Orders {
    book: Mutex<Book>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Book {
    standing: Option<UploaderState>,
    last_number: u64,
}

#[derive(Debug)]
struct UploaderState {
    /// The first reason; it stays until it is carried out.
    why: String,
    /// The last one, which may have come while a backup was under way.
    latest: String,
    /// The number of the last one.
    number: u64,
}

/// What was ordered before a backup began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// Why.
    pub why: String,
    number: u64,
}

impl Orders {
    /// Orders a base backup. The same reason twice is one order.
    pub fn order(&self, why: String) {
        let mut book = self.book.lock();
        let number = book.last_number + 1;
        let is_new = match &mut book.standing {
            Some(standing) if standing.why == why || standing.latest == why => false,
            Some(standing) => {
                (standing.latest, standing.number) = (why, number);
                true
            }
            None => {
                book.standing = Some(UploaderState { latest: why.clone(), why, number });
                true
            }
        };
        if is_new {
            book.last_number = number;
        }
        drop(book);
        self.bell.notify_one();
    }

    /// What stands now; to be asked before a backup begins, because what is ordered later may lie behind its beginning.
    #[must_use]
    pub fn standing(&self) -> Option<Ordered> {
        let book = self.book.lock();
        book.standing.as_ref().map(|UploaderState { why, number, .. }| Ordered { why: why.clone(), number: *number })
    }

    /// Why a base backup is wanted, if it is.
    #[must_use]
    pub fn ordered(&self) -> Option<String> {
        self.standing().map(|ordered| ordered.why)
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

    /// What stood when a good backup began has been carried out. What was ordered meanwhile stays.
    pub fn carried_out(&self, done: &Ordered) {
        let mut book = self.book.lock();
        match &mut book.standing {
            Some(standing) if standing.number > done.number => standing.why.clone_from(&standing.latest),
            Some(_) => book.standing = None,
            None => {}
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
        orders.carried_out(&orders.standing().unwrap());
        assert_eq!(orders.ordered(), None, "one backup carries out all that came before it");
    }

    #[test]
    fn what_is_ordered_while_a_backup_runs_is_not_carried_out_by_it() {
        for (why, meanwhile, expected) in
            [("another gap", "a gap at 2", Some("a gap at 2")), ("the same gap, told again", "a gap at 1", None)]
        {
            let orders = Orders::default();
            orders.order("a gap at 1".to_owned());
            let before = orders.standing().unwrap();
            orders.order(meanwhile.to_owned());
            assert_eq!(orders.ordered().as_deref(), Some("a gap at 1"), "{why}");
            orders.carried_out(&before);
            assert_eq!(orders.ordered().as_deref(), expected, "{why}");
            if let Some(standing) = orders.standing() {
                orders.carried_out(&standing);
                assert_eq!(orders.ordered(), None, "{why}");
            }
        }
    }
}
