//! The director: the one thread that carries decisions out.
//!
//! Run threads send it what they observed; compile threads send it what they made. It puts both in one order, asks the
//! policy, and does what the policy says: asks the compile service for a class's kernels (`compile`), loads them, makes
//! the graph on a spare executable beside the path, and exchanges the program between two runs (`install`). For a class
//! that is to be planned anew it asks the planner first; what earlier sessions had comes first (`recall`); shapes between others get what is there already (`borrow`); tiles of
//! a class that stays are timed (`refine`). A run waits for it only if the strategy says so (`eager`): it then hands over a
//! reply and goes on when that is dropped.

mod borrow;
mod compile;
mod install;
mod recall;
mod refine;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

use bespoke_device::Stream;
use bespoke_policy::{Action, ClassId, Event as PolicyEvent, Policy, Signature, Tier, What};

use crate::error::Error;
use crate::event::{Cause, EventKind};
use crate::kernels::{Answer, Draft};
use crate::lessons::Lessons;
use crate::program::Program;
use crate::second::{Planner, Replanned, Without};
use crate::service::Ticket;
use crate::shared::Core;
use crate::trial::Verdict;
use compile::{Asked, Wanted};
use install::Times;
use refine::{Found, Note, Refining};

/// What was learned is written at the end, and in between not more often than this.
const BETWEEN_LESSONS: Duration = Duration::from_secs(10);

/// Dropped when the sender may go on.
pub(crate) type Reply = SyncSender<()>;

/// What the director is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// The session is loaded.
    Loaded(Reply),
    /// A run came in.
    Observed {
        signature: Signature,
        run: u64,
        generic: bool,
        reply: Option<Reply>,
    },
    /// A run ended; `micros` without what it waited for.
    Ran {
        signature: Signature,
        tier: Option<Tier>,
        micros: u64,
    },
    /// A kernel of a class is compiled, or failed to.
    Answer {
        class: Option<ClassId>,
        request: u64,
        index: usize,
        answer: Box<Answer>,
    },
    /// The model was planned anew for a class, or the class had better keep what it has.
    Replanned {
        class: ClassId,
        request: u64,
        result: Box<Result<Replanned, Without>>,
    },
    /// Somebody wants programs for shapes before they occur.
    Wished(Vec<Signature>),
    /// The session begins: programs of shapes that earlier ones saw are to be made, if that takes no compiling.
    Recall(Reply),
    /// News of a refinement.
    Refine(Note),
    /// Programs were dropped because memory ran out.
    Dropped(Vec<ClassId>),
    /// A program was tried on live data.
    Judged {
        class: ClassId,
        candidate: Arc<Program>,
        verdict: Box<Result<Verdict, Error>>,
    },
    /// Somebody waits until nothing is wanted any more.
    Settle(Reply),
    /// The session ends.
    Stop,
}

pub(crate) struct Director {
    core: Arc<Core>,
    policy: Box<dyn Policy>,
    stream: Box<dyn Stream>,
    sender: Sender<Message>,
    wanted: BTreeMap<ClassId, Wanted>,
    /// Compiled classes between the policy's `CompileFinished` and its `Install`.
    compiled: BTreeMap<ClassId, (Wanted, Vec<Answer>)>,
    /// Classes whose program is on trial.
    trials: BTreeMap<ClassId, Times>,
    /// The class that is being refined.
    refining: Option<Refining>,
    /// Tiles of programs on trial.
    unproven: BTreeMap<ClassId, Vec<Found>>,
    /// Programs out of service that a run may still hold; their graphs are given back when none does.
    leaving: Vec<Arc<Program>>,
    /// Started when the first class is planned anew.
    planner: Option<Planner>,
    /// Kernels compiled for a target that this device does not need to run.
    background: usize,
    background_tickets: Vec<Ticket>,
    settle: Vec<Reply>,
    /// Who waits for the first tiers of what was recalled.
    recalled: Vec<Reply>,
    /// What was drawn up for a class at a shape to see whether its kernels are there, until the policy asks for it.
    draft: Option<(ClassId, Signature, Draft)>,
    lessons: Option<Lessons>,
    told: Instant,
    next_program: u64,
    next_request: u64,
}

impl Director {
    pub(crate) fn new(
        core: Arc<Core>,
        policy: Box<dyn Policy>,
        stream: Box<dyn Stream>,
        sender: Sender<Message>,
        lessons: Option<Lessons>,
    ) -> Director {
        Director {
            core,
            policy,
            stream,
            sender,
            wanted: BTreeMap::new(),
            compiled: BTreeMap::new(),
            trials: BTreeMap::new(),
            refining: None,
            unproven: BTreeMap::new(),
            leaving: Vec::new(),
            planner: None,
            background: 0,
            background_tickets: Vec::new(),
            settle: Vec::new(),
            recalled: Vec::new(),
            draft: None,
            lessons,
            told: Instant::now(),
            next_program: 1,
            next_request: 0,
        }
    }

    pub(crate) fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            if let (Message::Observed { signature, .. }, Some(lessons)) =
                (&message, &mut self.lessons)
            {
                lessons.saw(signature);
            }
            match message {
                Message::Stop => {
                    self.call_off();
                    self.leave_refining(None, "dropped");
                    return self.tell();
                }
                // of what is left when the session is dropped, only the shapes matter
                _ if self.stopping() => continue,
                Message::Loaded(reply) => self.event(What::Loaded, Some(reply)),
                Message::Observed {
                    signature,
                    run,
                    generic,
                    reply,
                } => {
                    let class = self.policy.class_of(&signature);
                    self.event(
                        What::Observed {
                            class,
                            signature,
                            run,
                            generic,
                        },
                        reply,
                    );
                }
                Message::Ran {
                    signature,
                    tier,
                    micros,
                } => {
                    let class = self.policy.class_of(&signature);
                    self.event(
                        What::Ran {
                            class,
                            tier,
                            micros,
                        },
                        None,
                    );
                }
                Message::Wished(signatures) => {
                    for signature in signatures {
                        if self.stopping() {
                            break;
                        }
                        let class = self.policy.class_of(&signature);
                        self.event(What::Wished { class, signature }, None);
                    }
                }
                Message::Recall(reply) => {
                    self.recall();
                    self.recalled.push(reply);
                }
                Message::Answer {
                    class,
                    request,
                    index,
                    answer,
                } => self.answered(class, request, index, *answer),
                Message::Replanned {
                    class,
                    request,
                    result,
                } => self.replanned(&class, request, *result),
                Message::Refine(note) => self.refine_note(note),
                Message::Dropped(classes) => {
                    for class in classes {
                        self.withdraw(&class, "out of memory");
                    }
                }
                Message::Judged {
                    class,
                    candidate,
                    verdict,
                } => self.judged(&class, candidate, *verdict),
                Message::Settle(reply) => self.settle.push(reply),
            }
            self.see_off();
            if self.compiled.is_empty() && self.background == 0 {
                // a session begins without its second tiers, which come when they are ready
                let second = |w: &Wanted| w.asked.tier == Tier::Second;
                if self.wanted.values().all(second) {
                    self.recalled.clear();
                }
            }
            if self.wanted.is_empty()
                && self.compiled.is_empty()
                && self.background == 0
                && !self.is_refining()
            {
                if self.told.elapsed() > BETWEEN_LESSONS {
                    self.tell();
                }
                self.settle.clear();
            }
        }
    }

    /// Whether the session is being dropped: nobody wants what is not begun yet.
    fn stopping(&self) -> bool {
        self.core.stopping.load(Ordering::Relaxed)
    }

    /// Asks the policy about an event and does what it says.
    fn event(&mut self, what: What, mut reply: Option<Reply>) {
        let shape = match &what {
            What::Observed { signature, .. } | What::Wished { signature, .. } => {
                Some(signature.to_string())
            }
            _ => None,
        };
        let cause = match &what {
            What::Observed { run, .. } => (Cause::Run, Some(*run)),
            What::Wished { .. } | What::Recalled { .. } => (Cause::Wish, None),
            What::Loaded => (Cause::Load, None),
            _ => (Cause::Turn, None),
        };
        let event = PolicyEvent {
            now_us: self.core.log.now_us(),
            what,
        };
        for action in self.policy.on_event(&event) {
            match action {
                Action::Specialise {
                    class,
                    tier,
                    shape,
                    priority,
                    blocking,
                    at_hand,
                    gain,
                } => {
                    let replies = if blocking {
                        reply.take().into_iter().collect()
                    } else {
                        vec![]
                    };
                    let asked = Asked {
                        tier,
                        priority,
                        cause,
                        expected: gain.map(Into::into),
                        at_hand,
                    };
                    self.specialise(class, &shape, asked, replies);
                }
                Action::Borrow { class, shape } => self.borrow(&class, &shape),
                Action::Refine {
                    class,
                    shape,
                    priority,
                } => self.refine(&class, &shape, priority),
                Action::Wait { class } => {
                    if let (Some(wanted), Some(reply)) = (self.wanted.get_mut(&class), reply.take())
                    {
                        wanted.replies.push(reply);
                    }
                }
                Action::Cancel { class } => self.cancel(&class, "stale"),
                Action::Install { class, .. } => self.install(&class),
                Action::Evict { class } => self.withdraw(&class, "policy"),
                Action::Nothing(reason) => {
                    if let Some(shape) = &shape {
                        self.core.log.push(EventKind::Decision {
                            shape: shape.clone(),
                            action: "nothing",
                            reason: reason.code(),
                        });
                    }
                }
            }
        }
    }
}
