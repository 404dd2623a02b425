//! Who computes the next password hash: a queue that one client cannot fill for others. No I/O.
//!
//! Requests wait by network address, and the addresses take turns, so a client waits for at most one hash of each other address, however many requests
//! another one sends. Of a full queue the address with most requests loses its latest. Registrations, which anybody can send without an account,
//! wait apart from log-ins and compute at most half of the hashes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The number of log-ins in a row after which a registration that waits has its turn.
const LOG_INS_PER_REGISTRATION: usize = 3;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of permits at the same time.
    pub running: usize,
    /// The maximum number of requests that wait, for log-ins and for registrations each: enough for a burst, while a flood is refused at once.
    pub waiting: usize,
    /// The maximum number of requests of one address among them.
    pub waiting_per_address: usize,
    /// The maximum time a request waits, shorter than clients' usual timeouts.
    pub timeout: Duration,
}

/// What a hash is computed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Also what a user does who has logged in.
    LogIn,
    Registration,
}

pub struct FairQueue {
    limits: Limits,
    state: Mutex<State>,
}

/// The permission to compute. Dropping it lets the next request compute.
pub struct Permit {
    work: Work,
    /// `None` if nobody has received it.
    queue: Option<Arc<FairQueue>>,
}

#[derive(Default)]
struct State {
    running: usize,
    registrations_running: usize,
    log_ins_in_a_row: usize,
    log_ins: Waiting,
    registrations: Waiting,
}

/// The requests that wait. The address in front has the next turn.
#[derive(Default)]
struct Waiting(VecDeque<Lane>);

/// The requests of one address, the oldest in front.
struct Lane {
    address: String,
    requests: VecDeque<oneshot::Sender<Permit>>,
}

impl FairQueue {
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(FairQueue {
            limits,
            state: Mutex::default(),
        })
    }

    /// Waits for a permit; `None` if the queue is full or the wait times out. `address` is the client's network address.
    pub async fn acquire(self: &Arc<Self>, work: Work, address: &str) -> Option<Permit> {
        let permit = {
            let mut state = self.state.lock();
            let permit = state.waiting(work).add(address, self.limits)?;
            self.grant(&mut state);
            permit
        };
        // The request leaves the queue when its receiver is dropped, and its permit, if it has got one, is released.
        tokio::time::timeout(self.limits.timeout, permit).await.ok()?.ok()
    }

    /// Gives permits to the requests whose turn it is.
    fn grant(self: &Arc<Self>, state: &mut State) {
        while state.running < self.limits.running {
            let Some((work, request)) = state.next(self.limits) else {
                return;
            };
            let permit = Permit {
                work,
                queue: Some(self.clone()),
            };
            match request.send(permit) {
                Ok(()) => state.started(work),
                // Its client has gone. This permit releases nothing, because none was counted.
                Err(mut unused) => unused.queue = None,
            }
        }
    }

    fn release(self: &Arc<Self>, work: Work) {
        let mut state = self.state.lock();
        state.running -= 1;
        if work == Work::Registration {
            state.registrations_running -= 1;
        }
        self.grant(&mut state);
    }

    #[cfg(test)]
    pub fn waiting(&self, work: Work) -> usize {
        let mut state = self.state.lock();
        let waiting = state.waiting(work);
        waiting.remove_abandoned();
        waiting.len()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.release(self.work);
        }
    }
}

impl State {
    fn waiting(&mut self, work: Work) -> &mut Waiting {
        match work {
            Work::LogIn => &mut self.log_ins,
            Work::Registration => &mut self.registrations,
        }
    }

    /// The request whose turn it is.
    fn next(&mut self, limits: Limits) -> Option<(Work, oneshot::Sender<Permit>)> {
        let may_register = self.registrations_running < (limits.running / 2).max(1);
        let prefer_registration = self.log_ins_in_a_row >= LOG_INS_PER_REGISTRATION;
        let order = if prefer_registration {
            [Work::Registration, Work::LogIn]
        } else {
            [Work::LogIn, Work::Registration]
        };
        order.into_iter().find_map(|work| {
            let allowed = work == Work::LogIn || may_register;
            let request = allowed.then(|| self.waiting(work).pop()).flatten()?;
            Some((work, request))
        })
    }

    fn started(&mut self, work: Work) {
        self.running += 1;
        match work {
            Work::LogIn => self.log_ins_in_a_row = self.log_ins_in_a_row.saturating_add(1),
            Work::Registration => {
                self.registrations_running += 1;
                self.log_ins_in_a_row = 0;
            }
        }
    }
}

impl Waiting {
    /// Adds a request; `None` if there is no room for it.
    fn add(&mut self, address: &str, limits: Limits) -> Option<oneshot::Receiver<Permit>> {
        self.remove_abandoned();
        let own = self.lane(address).map_or(0, |lane| lane.requests.len());
        if own >= limits.waiting_per_address {
            return None;
        }
        if self.len() >= limits.waiting {
            self.make_room(own + 1)?;
        }
        let (request, permit) = oneshot::channel();
        match self.lane(address) {
            Some(lane) => lane.requests.push_back(request),
            None => self.0.push_back(Lane {
                address: address.to_owned(),
                requests: VecDeque::from([request]),
            }),
        }
        Some(permit)
    }

    /// Refuses the latest request of the address that has most of them; `None` if no address has more than `requests`.
    fn make_room(&mut self, requests: usize) -> Option<()> {
        let longest = self.0.iter_mut().max_by_key(|lane| lane.requests.len())?;
        if longest.requests.len() <= requests {
            return None;
        }
        longest.requests.pop_back().map(drop)
    }

    /// The oldest request of the address in front, whose next turn comes after those of all others.
    fn pop(&mut self) -> Option<oneshot::Sender<Permit>> {
        let mut lane = self.0.pop_front()?;
        let request = lane.requests.pop_front();
        if !lane.requests.is_empty() {
            self.0.push_back(lane);
        }
        request
    }

    fn lane(&mut self, address: &str) -> Option<&mut Lane> {
        self.0.iter_mut().find(|lane| lane.address == address)
    }

    fn len(&self) -> usize {
        self.0.iter().map(|lane| lane.requests.len()).sum()
    }

    /// Removes requests whose clients have gone or were refused meanwhile.
    fn remove_abandoned(&mut self) {
        for lane in &mut self.0 {
            lane.requests.retain(|request| !request.is_closed());
        }
        self.0.retain(|lane| !lane.requests.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, future::BoxFuture};

    const LIMITS: Limits = Limits {
        running: 1,
        waiting: 8,
        waiting_per_address: 8,
        timeout: Duration::from_secs(60),
    };

    struct Queue {
        queue: Arc<FairQueue>,
        requests: Vec<(String, BoxFuture<'static, Option<Permit>>)>,
    }

    impl Queue {
        fn new(limits: Limits) -> Self {
            Queue {
                queue: FairQueue::new(limits),
                requests: Vec::new(),
            }
        }

        /// Sends a request, which waits.
        fn send(&mut self, work: Work, address: &str) {
            let (queue, name) = (self.queue.clone(), address.to_owned());
            let request = async move { queue.acquire(work, &name).await }.boxed();
            self.requests.push((address.to_owned(), request));
            let (_, request) = self.requests.last_mut().unwrap();
            if let Some(answer) = request.now_or_never() {
                *request = std::future::ready(answer).boxed();
            }
        }

        /// The requests that have an answer: the address and the permit of each.
        fn answered(&mut self) -> Vec<(String, Option<Permit>)> {
            let mut answered = Vec::new();
            for (address, mut request) in std::mem::take(&mut self.requests) {
                match (&mut request).now_or_never() {
                    Some(answer) => answered.push((address, answer)),
                    None => self.requests.push((address, request)),
                }
            }
            answered
        }

        /// The order in which requests compute, one hash after the other.
        fn order(&mut self) -> Vec<String> {
            let mut order = Vec::new();
            loop {
                let answered = self.answered();
                if answered.is_empty() {
                    return order;
                }
                let permitted = answered.into_iter().filter(|(_, permit)| permit.is_some());
                order.extend(permitted.map(|(address, _)| address));
            }
        }
    }

    #[tokio::test]
    async fn addresses_take_turns() {
        let mut queue = Queue::new(LIMITS);
        for address in ["a", "a", "a", "a", "b", "c", "b"] {
            queue.send(Work::LogIn, address);
        }
        assert_eq!(queue.order(), ["a", "a", "b", "c", "a", "b", "a"]);
    }

    #[tokio::test]
    async fn a_full_queue_has_room_for_an_address_that_sends_less_than_another() {
        let mut queue = Queue::new(LIMITS);
        for _ in 0..20 {
            queue.send(Work::LogIn, "flood");
        }
        let running = queue.answered();
        let refused = running.iter().filter(|(_, permit)| permit.is_none()).count();
        assert_eq!(refused, 11, "one computes, eight wait");
        queue.send(Work::LogIn, "customer");
        let refused = queue.answered();
        assert!(matches!(&refused[..], [(address, None)] if address == "flood"));
        drop(running);
        let order = queue.order();
        assert_eq!(order.len(), 8);
        assert!(order[..2].contains(&"customer".to_owned()), "{order:?}");
    }

    #[tokio::test]
    async fn an_address_has_a_queue_of_its_own_limit() {
        let mut queue = Queue::new(Limits {
            waiting_per_address: 2,
            ..LIMITS
        });
        for _ in 0..5 {
            queue.send(Work::LogIn, "flood");
        }
        assert_eq!(queue.queue.waiting(Work::LogIn), 2);
        assert_eq!(queue.answered().len(), 3);
    }

    #[tokio::test]
    async fn registrations_compute_half_of_the_hashes_and_are_not_starved_by_log_ins() {
        let mut queue = Queue::new(Limits { running: 4, ..LIMITS });
        for _ in 0..5 {
            queue.send(Work::Registration, "new");
        }
        let registrations = queue.answered();
        assert_eq!(registrations.len(), 2, "half of the permits are left to log-ins");
        queue.send(Work::LogIn, "customer");
        assert_eq!(queue.answered().len(), 1);

        let mut queue = Queue::new(LIMITS);
        for _ in 0..6 {
            queue.send(Work::LogIn, "customer");
        }
        queue.send(Work::Registration, "new");
        assert_eq!(queue.order().iter().position(|address| address == "new"), Some(3));
    }

    #[tokio::test]
    async fn a_request_whose_client_has_gone_holds_no_place_and_no_permit() {
        let mut queue = Queue::new(LIMITS);
        for address in ["a", "b", "c"] {
            queue.send(Work::LogIn, address);
        }
        // The first has its permit and does not know it yet, the second waits.
        drop(queue.requests.drain(..2));
        assert_eq!(queue.queue.waiting(Work::LogIn), 0);
        assert_eq!(queue.order(), ["c"]);
        assert_eq!(queue.queue.state.lock().running, 0);
    }
}
