//! What goes wrong, and when: drawn from the seed.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use kelson_raft::{Change, Error, Node, sim::Crash};

use crate::{dice::Dice, member::Member, net::url, poll::pause, world::World};

/// The first id of members that replace others.
const NEWCOMERS: u64 = 10;

/// Lets things go wrong for a while. What has begun by then may end later.
pub async fn rage(world: &Arc<World>, lasting: Duration) {
    let dice = world.dice.fork(3);
    // Whoever stands in the way of founding finds only that.
    pause(dice.ms(200, 1_500)).await;
    let mix = Mix::new(&dice);
    let mut chaos = Chaos { world: world.clone(), dice, mix, newcomer: NEWCOMERS, replacing: None };
    while world.now() < lasting {
        chaos.strike();
        pause(chaos.dice.ms(20, chaos.mix.pause_ms)).await;
    }
    world.aim.lock().take();
    if let Some(replacing) = chaos.replacing {
        world.net.heal();
        // A member that is being replaced while nobody answers gives up by itself.
        if replacing.await.is_err() {
            world.violate("panic", "the replacement of a member has panicked".to_owned());
        }
    }
}

/// When a member ends that is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It has applied an entry with a revision before all others.
    Applied,
    /// The same without one: of leases, mostly.
    Quiet,
    /// It leads, and a client was told that its lease is renewed, of which a part had passed.
    Renewed,
}

/// A member's end that is bound to a moment: see [`Chaos::aim`].
pub struct Aim {
    /// How often the moment still passes.
    skipped: u64,
    moment: Moment,
    after: Duration,
    how: Crash,
    down: Duration,
}

impl Aim {
    /// Such a moment has come for a member, or for whoever leads.
    pub fn at(world: &Arc<World>, moment: Moment, member: Option<&Arc<Member>>) {
        let mut aim = world.aim.lock();
        if aim.as_ref().is_none_or(|aim| aim.moment != moment) {
            return;
        }
        if let Some(Aim { skipped: skipped @ 1.., .. }) = &mut *aim {
            *skipped -= 1;
            return;
        }
        let Some(Aim { after, how, down, .. }) = aim.take() else { return };
        drop(aim);
        let Some(member) = member.cloned().or_else(|| leader(world).map(|(leader, _)| leader)) else { return };
        let world = world.clone();
        // Not within the step that applies.
        tokio::spawn(async move {
            if !after.is_zero() {
                pause(after).await;
            }
            world.note(format!("member {} ends: {how:?}, for {} ms", member.id, down.as_millis()));
            member.kill(&world, how, down);
        });
    }
}

#[derive(Clone, Copy)]
enum Fault {
    /// The network is as it should be.
    Heal,
    Split,
    Isolate,
    OneWay,
    SlowWay,
    Lose,
    Reset,
    Kill,
    KillWriter,
    Aim,
    KillAll,
    Restart,
    SlowDisk,
    SlowDisks,
    BreakDisk,
    Interrupt,
    Transfer,
    Jump,
    Replace,
}

/// What goes wrong how often. A run has much of one thing and nothing of another, which finds more than a bit of everything
/// in each (swarm testing: Groce and others, ISSTA 2012).
struct Mix {
    weights: Vec<(Fault, u64)>,
    /// Between two faults, at most.
    pause_ms: u64,
}

impl Mix {
    const USUAL: [(Fault, u64); 18] = [
        (Fault::Split, 2),
        (Fault::Isolate, 2),
        (Fault::OneWay, 2),
        (Fault::SlowWay, 1),
        (Fault::Lose, 1),
        (Fault::Reset, 1),
        (Fault::Kill, 3),
        (Fault::KillWriter, 2),
        (Fault::Aim, 4),
        (Fault::KillAll, 1),
        (Fault::Restart, 1),
        (Fault::SlowDisk, 3),
        (Fault::SlowDisks, 2),
        (Fault::BreakDisk, 1),
        (Fault::Interrupt, 6),
        (Fault::Transfer, 2),
        (Fault::Jump, 1),
        (Fault::Replace, 2),
    ];

    fn new(dice: &Dice) -> Mix {
        let times = |weight: u64| weight * dice.pick(&[0, 1, 1, 4]).unwrap_or(1);
        let mut weights: Vec<_> = Mix::USUAL.into_iter().map(|(fault, weight)| (fault, times(weight))).collect();
        // Where the network is rarely whole little happens, where it always is, too.
        weights.push((Fault::Heal, dice.between(4, 12)));
        Mix { weights, pause_ms: dice.pick(&[300, 900, 900, 2_000]).unwrap_or(900) }
    }

    fn draw(&self, dice: &Dice) -> Fault {
        let mut at = dice.below(self.weights.iter().map(|(_, weight)| weight).sum());
        for (fault, weight) in &self.weights {
            if at < *weight {
                return *fault;
            }
            at -= weight;
        }
        Fault::Heal
    }
}

/// The one that leads, as far as it knows.
fn leader(world: &World) -> Option<(Arc<Member>, Node)> {
    let led = |member: Arc<Member>| {
        let (node, _) = member.running()?;
        node.is_leader().then_some((member, node))
    };
    world.members().into_iter().filter_map(led).max_by_key(|(_, node)| node.status().term)
}

struct Chaos {
    world: Arc<World>,
    dice: Dice,
    mix: Mix,
    newcomer: u64,
    replacing: Option<tokio::task::JoinHandle<()>>,
}

impl Chaos {
    fn ids(&self) -> Vec<u64> {
        self.world.members().iter().map(|member| member.id).collect()
    }

    fn member(&self) -> Option<Arc<Member>> {
        self.dice.pick(&self.world.members())
    }

    fn leader(&self) -> Option<(Arc<Member>, Node)> {
        leader(&self.world)
    }

    fn strike(&mut self) {
        match self.mix.draw(&self.dice) {
            Fault::Heal => self.world.net.heal(),
            Fault::Split => self.split(),
            Fault::Isolate => self.isolate(),
            Fault::OneWay => self.one_way(),
            Fault::SlowWay => self.slow_way(),
            Fault::Lose => self.world.net.lose(self.dice.between(1, 15)),
            Fault::Reset => self.reset(),
            Fault::Kill => self.kill(),
            Fault::KillWriter => self.kill_writer(),
            Fault::Aim => self.aim(),
            Fault::KillAll => self.kill_all(),
            Fault::Restart => self.restart(),
            Fault::SlowDisk => self.slow_disk(),
            Fault::SlowDisks => self.slow_disks(),
            Fault::BreakDisk => self.break_disk(),
            Fault::Interrupt => self.interrupt(),
            Fault::Transfer => self.transfer(),
            Fault::Jump => self.jump(),
            Fault::Replace => self.replace(),
        }
    }

    /// While a whole state is on its way to a member, the others are led by another one, or its sender ends. Where none is, a
    /// member is left so far behind that it needs one.
    fn interrupt(&self) {
        let Some((leader, node)) = self.leader() else { return };
        let members = self.world.members();
        let (receiving, others): (Vec<_>, Vec<_>) = members
            .into_iter()
            .filter(|member| member.id != leader.id)
            .partition(|member| member.medium.is_receiving());
        let Some(receiver) = receiving.first() else { return self.leave_behind(leader.id) };
        self.note(format!("member {} is being sent the state", receiver.id));
        match (self.dice.below(5), self.dice.pick(&others)) {
            (0, _) => self.strike_at(&leader),
            (1 | 2, Some(next)) => self.hand_on((&leader, node), &next),
            _ => self.isolate(),
        }
    }

    /// One that follows hears nothing for a while, and then what the leader sends arrives slowly.
    fn leave_behind(&self, leader: u64) {
        let others: Vec<u64> = self.ids().into_iter().filter(|id| *id != leader).collect();
        let Some(last) = self.dice.pick(&others) else { return };
        let (lasting, slow) = (self.dice.ms(500, 2_000), self.dice.between(50, 600));
        self.note(format!("member {last} is left behind for {} ms", lasting.as_millis()));
        let ways: Vec<_> = self.ids().into_iter().map(|other| (other, last)).collect();
        self.world.net.cut(ways.clone());
        let net = self.world.net.clone();
        tokio::spawn(async move {
            pause(lasting).await;
            if net.open(ways) {
                net.slow((leader, last), slow);
            }
        });
    }

    fn note(&self, what: impl AsRef<str>) {
        self.world.note(what);
    }

    /// Two groups that do not hear each other.
    fn split(&self) {
        let (one, other): (Vec<u64>, Vec<u64>) = self.ids().into_iter().partition(|_| self.dice.percent(50));
        self.note(format!("{one:?} and {other:?} are apart"));
        for a in &one {
            self.world.net.cut(other.iter().flat_map(|b| [(*a, *b), (*b, *a)]));
        }
    }

    /// The leader alone.
    fn isolate(&self) {
        let Some((leader, _)) = self.leader() else { return };
        self.note(format!("leader {} is alone", leader.id));
        self.world.net.cut(self.ids().into_iter().flat_map(|other| [(leader.id, other), (other, leader.id)]));
    }

    /// Nothing comes from a member, but it hears the others; or the other way round.
    fn one_way(&self) {
        let Some(member) = self.member() else { return };
        let deaf = self.dice.percent(50);
        self.note(format!("member {} is {}", member.id, if deaf { "deaf" } else { "mute" }));
        let way = |other: u64| if deaf { (other, member.id) } else { (member.id, other) };
        self.world.net.cut(self.ids().into_iter().map(way));
    }

    fn crash(&self) -> Crash {
        match self.dice.below(3) {
            0 => Crash::Kill,
            1 => Crash::Power { kept: 0 },
            _ => Crash::Power { kept: self.dice.below(1001) as usize },
        }
    }

    fn kill(&self) {
        let victim = if self.dice.percent(40) { self.leader().map(|(member, _)| member) } else { self.member() };
        if let Some(victim) = victim {
            self.strike_at(&victim);
        }
    }

    fn strike_at(&self, victim: &Member) {
        let (how, down) = (self.crash(), self.dice.ms(0, 1_500));
        self.note(format!("member {} ends: {how:?}, for {} ms", victim.id, down.as_millis()));
        victim.kill(&self.world, how, down);
    }

    /// A member that follows is killed while it writes, and comes back at once: it finds what is not on the disk yet.
    fn kill_writer(&self) {
        let leader = self.leader().map(|(leader, _)| leader.id);
        let writes = |member: &&Arc<Member>| Some(member.id) != leader && member.medium.is_unsynced();
        let Some(victim) = self.world.members().iter().find(writes).cloned() else { return };
        let down = self.dice.ms(0, 20);
        self.note(format!("member {} is killed while it writes, for {} ms", victim.id, down.as_millis()));
        victim.kill(&self.world, Crash::Kill, down);
    }

    /// The leader ends when it has applied an entry, or soon after: it may have answered, and the others do not know yet that
    /// the entry is committed.
    fn aim(&self) {
        let (how, down) = (self.crash(), self.dice.ms(0, 1_500));
        let moments = [Moment::Applied, Moment::Quiet, Moment::Renewed, Moment::Renewed];
        let moment = self.dice.pick(&moments).unwrap_or(Moment::Applied);
        // Who was told of a renewal has his answer.
        let at_once = moment == Moment::Renewed || self.dice.percent(30);
        let after = if at_once { Duration::ZERO } else { self.dice.ms(0, 8) };
        let skipped = if at_once { self.dice.below(2) } else { self.dice.below(8) };
        self.note(format!("the leader is aimed at: {moment:?}"));
        *self.world.aim.lock() = Some(Aim { skipped, moment, after, how, down });
    }

    fn kill_all(&self) {
        self.note("the power is off");
        for member in self.world.members() {
            let kept = if self.dice.percent(50) { 0 } else { self.dice.below(1001) as usize };
            member.kill(&self.world, Crash::Power { kept }, self.dice.ms(0, 400));
        }
    }

    /// In order.
    fn restart(&self) {
        let Some((node, _)) = self.member().and_then(|member| member.running()) else { return };
        self.note(format!("member {} is restarted", node.status().member_id));
        tokio::spawn(async move { drop(node.shutdown().await) });
    }

    fn slow_way(&self) {
        let (Some(from), Some(to)) = (self.member(), self.member()) else { return };
        let ms = self.dice.between(20, 400);
        self.note(format!("the way from {} to {} takes up to {ms} ms", from.id, to.id));
        self.world.net.slow((from.id, to.id), ms);
    }

    fn reset(&self) {
        let (Some(one), Some(other)) = (self.member(), self.member()) else { return };
        self.note(format!("streams between {} and {} are reset", one.id, other.id));
        self.world.net.reset(|ends| ends.contains(&one.id) && ends.contains(&other.id));
    }

    fn slow_disk(&self) {
        let Some(member) = self.member() else { return };
        let ms = self.dice.pick(&[1, 4, 30, 100, 300]).unwrap_or(4);
        self.note(format!("syncs of member {} take up to {ms} ms", member.id));
        member.pace.usual.store(ms, Relaxed);
    }

    fn slow_disks(&self) {
        let ms = self.dice.pick(&[30, 100, 300]).unwrap_or(30);
        self.note(format!("all syncs take up to {ms} ms"));
        self.world.members().iter().for_each(|member| member.pace.usual.store(ms, Relaxed));
    }

    fn break_disk(&self) {
        let Some(member) = self.member() else { return };
        self.note(format!("the disk of member {} fails", member.id));
        member.pace.broken.store(true, Relaxed);
    }

    fn transfer(&self) {
        if let (Some((leader, node)), Some(next)) = (self.leader(), self.member()) {
            self.hand_on((&leader, node), &next);
        }
    }

    fn hand_on(&self, (leader, node): (&Member, Node), next: &Member) {
        let next = next.id;
        self.note(format!("member {next} is to lead after {}", leader.id));
        // It may be refused, or come to nothing.
        tokio::spawn(async move { drop(node.transfer_leader(next).await) });
    }

    fn jump(&self) {
        let Some(member) = self.member() else { return };
        let ahead = self.dice.ms(100, 3_000);
        self.note(format!("the clock of member {} jumps {} ms ahead", member.id, ahead.as_millis()));
        member.jump(u64::try_from(ahead.as_millis()).unwrap_or(0));
        self.world.jumps.lock().push((self.world.now(), ahead));
    }

    /// One member goes and another comes, one at a time.
    fn replace(&mut self) {
        if self.replacing.as_ref().is_some_and(|replacing| !replacing.is_finished()) {
            return;
        }
        let Some(victim) = self.member() else { return };
        let newcomer = self.newcomer;
        self.newcomer += 1;
        let change = Replacement { world: self.world.clone(), dice: self.dice.fork(newcomer), victim, newcomer };
        self.note(format!("member {} is to be replaced by {newcomer}", change.victim.id));
        self.replacing = Some(tokio::spawn(change.make()));
    }
}

struct Replacement {
    world: Arc<World>,
    dice: Dice,
    victim: Arc<Member>,
    newcomer: u64,
}

impl Replacement {
    async fn make(self) {
        let (id, learner) = (self.newcomer, self.dice.percent(50));
        let add = || Change::Add { id, peer_urls: vec![url(id)], learner };
        // The new one first, or the old one.
        let first = self.dice.percent(50);
        if first && !self.add(add(), learner).await {
            return;
        }
        self.world.remove(self.victim.id);
        if self.change(Change::Remove { id: self.victim.id }).await {
            pause(self.dice.ms(0, 1_000)).await;
            self.world.note(format!("member {} is gone", self.victim.id));
            self.victim.retire(&self.world);
        }
        if !first {
            self.add(add(), learner).await;
        }
    }

    async fn add(&self, add: Change, learner: bool) -> bool {
        if !self.change(add).await {
            return false;
        }
        self.world.start(Vec::new(), self.newcomer);
        if learner {
            pause(self.dice.ms(100, 1_500)).await;
            self.change(Change::Promote { id: self.newcomer }).await;
        }
        true
    }

    /// Makes a change at any member; whether it holds.
    async fn change(&self, change: Change) -> bool {
        for _ in 0..6 {
            pause(self.dice.ms(10, 500)).await;
            let Some((node, life)) = self.dice.pick(&self.world.members()).and_then(|member| member.running()) else {
                continue;
            };
            let made = tokio::select! {
                biased;
                () = life.over() => Err(Error::Stopped),
                made = node.change_members(change.clone()) => made,
            };
            self.world.note(format!("{change:?}: {made:?}"));
            match (made, &change) {
                (Ok(()), _) | (Err(Error::MemberExists), Change::Add { .. }) => return true,
                (Err(Error::NoMember), Change::Remove { .. }) => return true,
                (Err(Error::NotALearner), Change::Promote { .. }) => return true,
                _ => {}
            }
        }
        false
    }
}
