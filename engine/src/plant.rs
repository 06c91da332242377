//! Known bugs that the simulation plants, one at a time, to prove that its checks find them. Without the feature `sim` none
//! can be planted, and nothing is left of the places that ask.

/// A bug of this crate or of one that stands on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log says that it is synced before it is.
    AnswerBeforeSync,
    /// What a killed process has written and not synced is taken for durable by the next one.
    UnsyncedAtStart,
    /// A vote is kept in memory only.
    VoteForgotten,
    /// Entries of the log leave memory before they are on disk.
    ForgottenEarly,
    /// A member votes for who has less of the log than itself.
    VoteForAnybody,
    /// The leader takes what it has sent for what a follower has.
    SentIsStored,
    /// The leader answers linearizable reads without asking whether it still leads.
    LeaderReadsAlone,
    /// Another member answers linearizable reads before it has applied what it must have.
    FollowerReadsEarly,
    /// A batch whose call was lost on its way to the leader is sent again.
    LostIsRetried,
    /// The leader renews leases without asking whether it still leads.
    LeaderRenewsAlone,
    /// A new leader goes on with the deadlines of leases that it has counted while another one led.
    LeaseCarriedOver,
    /// A new leader counts the deadlines of leases before it has applied what earlier ones have left in the log.
    LeaseCountedEarly,
    /// A renewal leaves a checkpoint standing that notes less than it has promised.
    RenewalNotNoted,
    /// A leader's revocations of leases are proposed by whoever leads when their turn comes.
    RevokedInAnyTerm,
    /// The log is dropped in front of a state that has not been flushed.
    PurgeBeforeFlush,
    /// A state that has come is kept though this member has got further meanwhile, and what its log has beyond goes.
    OldStateKept,
    /// A state that is sent to another member lacks the leases.
    StateWithoutLeases,
    /// A read at a compacted revision is answered with what is left.
    CompactedIsAnswered,
    /// A watch that begins or falls behind a compaction goes on after it.
    GapIsSkipped,
}

impl Bug {
    pub const ALL: [Bug; 19] = [
        Bug::AnswerBeforeSync,
        Bug::UnsyncedAtStart,
        Bug::VoteForgotten,
        Bug::ForgottenEarly,
        Bug::VoteForAnybody,
        Bug::SentIsStored,
        Bug::LeaderReadsAlone,
        Bug::FollowerReadsEarly,
        Bug::LostIsRetried,
        Bug::LeaderRenewsAlone,
        Bug::LeaseCarriedOver,
        Bug::LeaseCountedEarly,
        Bug::RenewalNotNoted,
        Bug::RevokedInAnyTerm,
        Bug::PurgeBeforeFlush,
        Bug::OldStateKept,
        Bug::StateWithoutLeases,
        Bug::CompactedIsAnswered,
        Bug::GapIsSkipped,
    ];
}

#[cfg(feature = "sim")]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or none.
#[cfg(feature = "sim")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted.
#[cfg(feature = "sim")]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Never.
#[cfg(not(feature = "sim"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}
