//! Which of a module's instances are well, and which of them is asked next.
//!
//! Every instance is probed all the time. It leaves the rotation at the first probe that fails, or when a caller says that it refused the
//! connection, and is back after the first probe that succeeds. Who is asked is decided by "the power of two choices" (Mitzenmacher, 2001): of
//! two at random the one with fewer calls in flight, which keeps slow instances from being given what they cannot do, without counting
//! everybody's load for each call.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};
use utoipa::ToSchema;

use super::{Address, Interface, Settings};

/// How instances are connected, and asked whether they are well.
#[async_trait]
pub trait Reach: Send + Sync + 'static {
    /// What a call is made over; its clones share what is expensive.
    type Connection: Clone + Send + Sync + 'static;

    /// Prepares to talk to an instance, without talking to it yet.
    ///
    /// # Errors
    /// It could never be talked to, whatever its state: the settings are wrong.
    fn connect(&self, address: &Address) -> anyhow::Result<Self::Connection>;

    /// Whether it is well. Called every `probe_every_ms`, and given up after `probe_timeout_ms`.
    ///
    /// # Errors
    /// It is not; says why, for people.
    async fn probe(&self, connection: &Self::Connection) -> Result<(), String>;
}

/// The instances of one module. Clones are the same rotation; it works until it is told to stop or the last clone is gone.
pub struct Rotation<R: Reach> {
    shared: Arc<Shared<R::Connection>>,
}

impl<R: Reach> Clone for Rotation<R> {
    fn clone(&self) -> Self {
        Rotation {
            shared: self.shared.clone(),
        }
    }
}

/// One instance, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InstanceState {
    /// Where it answers.
    #[schema(value_type = String, example = "http://10.0.0.1:9000")]
    pub address: Address,
    /// Whether it is given calls.
    pub in_rotation: bool,
    /// Calls of this process that it has not answered yet.
    pub in_flight: usize,
    /// Why it is not in rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why not all of a module's instances are well: how many answer, and what the first of the others says. None: all are, and there are some.
pub fn why_not_whole(instances: &[InstanceState]) -> Option<String> {
    let well = instances.iter().filter(|instance| instance.in_rotation).count();
    let all = instances.len();
    if well == all && all > 0 {
        return None;
    }
    let why = instances
        .iter()
        .find_map(|instance| Some(format!("; {}: {}", instance.address, instance.reason.as_ref()?)));
    Some(format!("{well} of {all} instances answer{}", why.unwrap_or_default()))
}

struct Shared<C> {
    known: RwLock<Vec<Arc<Member<C>>>>,
    /// Those that could never be connected, with the reason.
    impossible: RwLock<Vec<(Address, String)>>,
    /// What the measurements are called: module and interface.
    measured_as: OnceLock<(String, Interface)>,
    _running: DropGuard,
}

/// One instance, as long as it is known.
struct Member<C> {
    address: Address,
    connection: C,
    in_flight: AtomicUsize,
    /// Written only under `verdict`; read without it.
    in_rotation: AtomicBool,
    verdict: Mutex<Verdict>,
    rotation: Weak<Shared<C>>,
    /// Set when discovery no longer knows it.
    gone: CancellationToken,
}

#[derive(Default)]
struct Verdict {
    refusals: u64,
    reason: Option<String>,
}

/// An instance that was picked for one call, which counts as in flight as long as this lives.
pub struct Picked<C> {
    member: Arc<Member<C>>,
}

impl<R: Reach> Rotation<R> {
    /// Starts probing. Must be called within a runtime.
    pub fn start(
        reach: R,
        addresses: watch::Receiver<Vec<Address>>,
        settings: &Settings,
        stop: CancellationToken,
    ) -> Self {
        let running = stop.child_token();
        let shared = Arc::new(Shared {
            known: RwLock::default(),
            impossible: RwLock::default(),
            measured_as: OnceLock::new(),
            _running: running.clone().drop_guard(),
        });
        let keeper = Keeper {
            reach: Arc::new(reach),
            shared: Arc::downgrade(&shared),
            running,
            probe_every: settings.probe_every(),
            probe_timeout: settings.probe_timeout(),
        };
        keeper.keep(addresses);
        Rotation { shared }
    }

    /// Measures how many instances there are, and how many of them are in rotation, under these names.
    #[must_use]
    pub fn measured_as(self, module: &str, interface: Interface) -> Self {
        let _ = self.shared.measured_as.set((module.to_owned(), interface));
        self.shared.measure();
        self
    }

    /// Of two in rotation, at random, the one with fewer calls in flight. An instance that was never probed yet counts as well. None: none is
    /// left.
    pub fn pick(&self) -> Option<Picked<R::Connection>> {
        self.shared.pick(|_| true)
    }

    /// As [`pick`](Rotation::pick), but another one than this: for a second attempt.
    pub fn pick_other(&self, not: &Picked<R::Connection>) -> Option<Picked<R::Connection>> {
        self.shared.pick(|member| member.address != not.member.address)
    }

    /// All instances that are known.
    pub fn states(&self) -> Vec<InstanceState> {
        let mut states: Vec<InstanceState> = self.shared.known().iter().map(|member| member.state()).collect();
        let never = |(address, reason): &(Address, String)| InstanceState {
            address: address.clone(),
            in_rotation: false,
            in_flight: 0,
            reason: Some(reason.clone()),
        };
        states.extend(self.shared.impossible().iter().map(never));
        states
    }
}

impl<C> Shared<C> {
    fn known(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Member<C>>>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn impossible(&self) -> std::sync::RwLockReadGuard<'_, Vec<(Address, String)>> {
        self.impossible.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self, suits: impl Fn(&Member<C>) -> bool) -> Option<Picked<C>> {
        let known = self.known();
        let suiting = || {
            known
                .iter()
                .filter(|member| member.in_rotation.load(Ordering::Relaxed) && suits(member))
        };
        // An instance may leave while we look; whoever is found is then as good as another.
        let nth = |n| suiting().nth(n).or_else(|| suiting().next());
        let member = match suiting().count() {
            0 => return None,
            1 => nth(0)?,
            count => {
                let one = rand::random_range(0..count);
                let other = (one + rand::random_range(1..count)) % count;
                let (one, other) = (nth(one)?, nth(other)?);
                let load = |member: &Member<C>| member.in_flight.load(Ordering::Relaxed);
                if load(other) < load(one) { other } else { one }
            }
        };
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Picked { member: member.clone() })
    }

    fn measure(&self) {
        let Some((module, interface)) = self.measured_as.get() else {
            return;
        };
        let (known, well) = {
            let known = self.known();
            (
                known.len() + self.impossible().len(),
                known
                    .iter()
                    .filter(|member| member.in_rotation.load(Ordering::Relaxed))
                    .count(),
            )
        };
        let labels = [("module", module.clone()), ("interface", interface.name().to_owned())];
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 instances")]
        {
            metrics::gauge!("banyan_discovery_instances", &labels).set(known as f64);
            metrics::gauge!("banyan_discovery_instances_in_rotation", &labels).set(well as f64);
        }
    }
}

impl<C> Member<C> {
    fn verdict(&self) -> MutexGuard<'_, Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> InstanceState {
        let verdict = self.verdict();
        InstanceState {
            address: self.address.clone(),
            in_rotation: self.in_rotation.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            reason: verdict.reason.clone(),
        }
    }

    fn leave(&self, verdict: &mut Verdict, reason: String) {
        if self.in_rotation.swap(false, Ordering::Relaxed) {
            warn!(instance = %self.address, reason, "an instance leaves the rotation");
        }
        verdict.reason = Some(reason);
    }

    fn come_back(&self, verdict: &mut Verdict) {
        if !self.in_rotation.swap(true, Ordering::Relaxed) {
            info!(instance = %self.address, "an instance is back in rotation");
        }
        verdict.reason = None;
    }

    fn measure(&self) {
        if let Some(rotation) = self.rotation.upgrade() {
            rotation.measure();
        }
    }
}

impl<C> Picked<C> {
    pub fn connection(&self) -> &C {
        &self.member.connection
    }

    pub fn address(&self) -> &Address {
        &self.member.address
    }

    /// It refused the connection: out of rotation at once, until a probe that begins later succeeds.
    pub fn refused(&self) {
        {
            let mut verdict = self.member.verdict();
            verdict.refusals += 1;
            self.member.leave(&mut verdict, "it refused a connection".to_owned());
        }
        self.member.measure();
    }
}

impl<C> Drop for Picked<C> {
    fn drop(&mut self) {
        self.member.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a rotation: takes in what discovery says, and probes.
struct Keeper<R: Reach> {
    reach: Arc<R>,
    shared: Weak<Shared<R::Connection>>,
    running: CancellationToken,
    probe_every: Duration,
    probe_timeout: Duration,
}

impl<R: Reach> Keeper<R> {
    /// Takes in what is known now, before it returns, and every change from then on.
    fn keep(self, mut addresses: watch::Receiver<Vec<Address>>) {
        let first = addresses.borrow_and_update().clone();
        self.take_in(&first);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = self.running.cancelled() => return,
                    changed = addresses.changed() => {
                        if changed.is_err() {
                            // Nothing will change any more; the probes go on.
                            return;
                        }
                        let known = addresses.borrow_and_update().clone();
                        self.take_in(&known);
                    }
                }
            }
        });
    }

    /// Who stays keeps its connection and its state; who is new is in rotation and probed at once; calls to who is gone may finish.
    fn take_in(&self, addresses: &[Address]) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut before: BTreeMap<Address, Arc<Member<R::Connection>>> = shared
            .known()
            .iter()
            .map(|member| (member.address.clone(), member.clone()))
            .collect();
        let mut now = Vec::with_capacity(addresses.len());
        let (mut new, mut impossible) = (Vec::new(), Vec::new());
        for address in addresses {
            if let Some(member) = before.remove(address) {
                now.push(member);
                continue;
            }
            match self.reach.connect(address) {
                Ok(connection) => {
                    let member = Arc::new(Member {
                        address: address.clone(),
                        connection,
                        in_flight: AtomicUsize::new(0),
                        in_rotation: AtomicBool::new(true),
                        verdict: Mutex::default(),
                        rotation: self.shared.clone(),
                        gone: self.running.child_token(),
                    });
                    now.push(member.clone());
                    new.push(member);
                }
                Err(why) => {
                    if !shared.impossible().iter().any(|(known, _)| known == address) {
                        error!(instance = %address, "an instance cannot be connected, and is left out: {why:#}");
                    }
                    impossible.push((address.clone(), format!("{why:#}")));
                }
            }
        }
        *shared.impossible.write().unwrap_or_else(PoisonError::into_inner) = impossible;
        *shared.known.write().unwrap_or_else(PoisonError::into_inner) = now;
        before.into_values().for_each(|member| member.gone.cancel());
        for member in new {
            tokio::spawn(probe(self.reach.clone(), member, self.probe_every, self.probe_timeout));
        }
        shared.measure();
    }
}

/// Probes one instance until it is gone.
async fn probe<R: Reach>(reach: Arc<R>, member: Arc<Member<R::Connection>>, every: Duration, within: Duration) {
    let gone = member.gone.clone();
    let probing = async {
        loop {
            let refusals = member.verdict().refusals;
            let answer = timeout(within, reach.probe(&member.connection)).await;
            {
                let mut verdict = member.verdict();
                match answer {
                    // A probe that was under way when a caller was refused proves nothing.
                    Ok(Ok(())) if verdict.refusals != refusals => {}
                    Ok(Ok(())) => member.come_back(&mut verdict),
                    Ok(Err(reason)) => member.leave(&mut verdict, reason),
                    Err(_) => member.leave(
                        &mut verdict,
                        format!("no answer to a probe within {} ms", within.as_millis()),
                    ),
                }
            }
            member.measure();
            tokio::time::sleep(jittered(every)).await;
        }
    };
    tokio::select! {
        () = gone.cancelled() => {}
        () = probing => {}
    }
}

/// A fifth more or less, so that many processes do not ask at the same moment.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(rand::random_range(0.8..=1.2))
}

#[cfg(test)]
mod tests;
