//! The director: the one thread that carries decisions out.
//!
//! Run threads send it what they observed; compile threads send it what they made. It puts both in one order, asks the
//! policy, and does what the policy says: asks the compile service for a class's kernels, loads them, makes the graph on
//! a spare executable beside the path, and exchanges the program between two runs. A run waits for it only if the
//! strategy says so (`eager`): it then hands over a reply and goes on when that is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::time::{Duration, Instant};

use bespoke_device::Stream;
use bespoke_policy::{Action, ClassId, Event as PolicyEvent, Policy, Signature, What};

use crate::error::Error;
use crate::event::{Cause, EventKind};
use crate::kernels::{Answer, Distinct, Draft, Lacking, report};
use crate::lessons::Lessons;
use crate::program::{Blueprint, Program};
use crate::service::Ticket;
use crate::shared::Core;
use crate::trial::Verdict;

/// Shapes of earlier sessions that a session begins with, at most.
const RECALLED: usize = 16;
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
    /// A kernel of a class is compiled, or failed to.
    Answer {
        class: Option<ClassId>,
        request: u64,
        index: usize,
        answer: Box<Answer>,
    },
    /// Somebody wants programs for shapes before they occur.
    Wished(Vec<Signature>),
    /// The session begins: programs of shapes that earlier ones saw are to be made, if that takes no compiling.
    Recall(Reply),
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

/// A class whose kernels are under way.
struct Wanted {
    /// Tells its answers from those of an earlier request for the class that was called off.
    request: u64,
    tickets: Vec<Ticket>,
    blueprint: Blueprint,
    distinct: Distinct,
    answers: Vec<Option<Answer>>,
    missing: usize,
    replies: Vec<Reply>,
    since: Instant,
}

/// What an install took.
#[derive(Clone, Copy)]
struct Times {
    kernels: usize,
    compile_us: u64,
    install_us: u64,
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
    /// Kernels compiled for a target that this device does not need to run.
    background: usize,
    settle: Vec<Reply>,
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
            background: 0,
            settle: Vec::new(),
            draft: None,
            lessons,
            told: Instant::now(),
            next_program: 1,
            next_request: 0,
        }
    }

    /// Compiles the generic kernels for a target whose cubins this device stores but does not run.
    pub(crate) fn compile_in_background(&mut self, blueprint: &Blueprint) {
        let requests = self.core.loader.requests(&Distinct::of(blueprint).specs);
        self.background += requests.len();
        self.core.log.push(EventKind::Enqueue {
            class: "generic".into(),
            kernels: requests.len(),
            priority: 0,
            cause: Cause::Load,
            run: None,
        });
        let requests = requests.into_iter().enumerate();
        let requests = requests.map(|(i, r)| (i, r, None)).collect();
        self.submit(None, 0, requests, 0);
    }

    pub(crate) fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            if let (Message::Observed { signature, .. }, Some(lessons)) =
                (&message, &mut self.lessons)
            {
                lessons.saw(signature);
            }
            match message {
                Message::Stop => return self.tell(),
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
                    self.settle.push(reply);
                }
                Message::Answer {
                    class,
                    request,
                    index,
                    answer,
                } => self.answered(class, request, index, *answer),
                Message::Dropped(classes) => {
                    for class in classes {
                        self.evicted(&class, "out of memory");
                    }
                }
                Message::Judged {
                    class,
                    candidate,
                    verdict,
                } => self.judged(&class, candidate, *verdict),
                Message::Settle(reply) => self.settle.push(reply),
            }
            if self.wanted.is_empty() && self.compiled.is_empty() && self.background == 0 {
                if self.told.elapsed() > BETWEEN_LESSONS {
                    self.tell();
                }
                self.settle.clear();
            }
        }
    }

    /// Asks for the programs of shapes that earlier sessions saw and whose kernels are all there.
    fn recall(&mut self) {
        let core = self.core.clone();
        let Some(lessons) = self.lessons.as_ref().filter(|_| self.policy.specialises()) else {
            return;
        };
        let known = lessons.known(&core.loader.service);
        let mut wished = 0;
        // what the strategy asked for already, as `static` does, it need not be asked
        let mut classes: Vec<ClassId> = self.policy.classes().into_iter().map(|c| c.0).collect();
        for signature in known.iter().take(RECALLED) {
            let class = self.policy.class_of(signature);
            // a model that changed since may not take the shape any more
            let Ok(binding) = core.plan.bind_symbols(signature.dims().to_vec()) else {
                continue;
            };
            if classes.contains(&class) {
                continue;
            }
            let draft = Draft::of(&core, &class, &binding);
            if core.loader.service.has_all(&draft.requests) {
                wished += 1;
                let signature = signature.clone();
                self.draft = Some((class.clone(), signature.clone(), draft));
                self.event(
                    What::Wished {
                        class: class.clone(),
                        signature,
                    },
                    None,
                );
                self.draft = None;
            }
            classes.push(class);
        }
        if !known.is_empty() {
            let known = known.len();
            core.log.push(EventKind::Recall { known, wished });
        }
    }

    /// Adds what was learned to what is known about the model.
    fn tell(&mut self) {
        self.told = Instant::now();
        let service = &self.core.loader.service;
        if let Some(Err(e)) = self.lessons.as_mut().map(|l| l.tell(service)) {
            let reason = e.to_string();
            self.core.log.push(EventKind::LearnFailed { reason });
        }
    }

    /// Whether the session is being dropped: nobody wants what is not begun yet.
    fn stopping(&self) -> bool {
        self.core.stopping.load(Ordering::Relaxed)
    }

    fn submit(
        &self,
        class: Option<&ClassId>,
        request: u64,
        kernels: Vec<Lacking>,
        priority: i64,
    ) -> Vec<Ticket> {
        let service = &self.core.loader.service;
        let submit = |(index, kernel, missed): Lacking| {
            let sender = self.sender.clone();
            let class = class.cloned();
            service.submit_missed(kernel, missed, priority, move |answer| {
                // a session that is gone needs no answer; the kernel is in the cache for the next one
                let _ = sender.send(Message::Answer {
                    class,
                    request,
                    index,
                    answer: Box::new(answer),
                });
            })
        };
        kernels.into_iter().map(submit).collect()
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
            What::Wished { .. } => (Cause::Wish, None),
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
                    shape,
                    priority,
                    blocking,
                } => {
                    let replies = if blocking {
                        reply.take().into_iter().collect()
                    } else {
                        vec![]
                    };
                    self.specialise(class, &shape, priority, replies, cause);
                }
                Action::Wait { class } => {
                    if let (Some(wanted), Some(reply)) = (self.wanted.get_mut(&class), reply.take())
                    {
                        wanted.replies.push(reply);
                    }
                }
                Action::Cancel { class } => self.cancel(&class),
                Action::Install { class } => self.install(&class),
                Action::Evict { class } => self.evict(&class),
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

    fn specialise(
        &mut self,
        class: ClassId,
        shape: &Signature,
        priority: i64,
        replies: Vec<Reply>,
        (cause, run): (Cause, Option<u64>),
    ) {
        let core = self.core.clone();
        let draft = match self.draft.take() {
            Some((of, at, draft)) if of == class && at == *shape => draft,
            _ => match core.plan.bind_symbols(shape.dims().to_vec()) {
                Ok(binding) => Draft::of(&core, &class, &binding),
                Err(e) => return self.finished(&class, 0, Err(e.into())),
            },
        };
        let Draft {
            blueprint,
            distinct,
            requests,
        } = draft;
        let (text, kernels) = (class.to_string(), distinct.specs.len());
        core.log.push(EventKind::Enqueue {
            class: text,
            kernels,
            priority,
            cause,
            run,
        });
        let since = Instant::now();
        // what is there is taken at once; only what is not goes through the pool
        let at_hand = core.loader.service.at_hand(&requests);
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(requests.len());
        let mut lacking = Vec::new();
        for (found, request) in at_hand.into_iter().zip(requests) {
            match found {
                Ok(ready) => {
                    let answer = Ok(ready);
                    report(&core.log, &answer, Some(&class.to_string()));
                    answers.push(Some(answer));
                }
                Err(missed) => {
                    lacking.push((answers.len(), request, missed));
                    answers.push(None);
                }
            }
        }
        let missing = lacking.len();
        self.next_request += 1;
        let request = self.next_request;
        let tickets = self.submit(Some(&class), request, lacking, priority);
        self.wanted.insert(
            class.clone(),
            Wanted {
                request,
                tickets,
                blueprint,
                distinct,
                answers,
                missing,
                replies,
                since,
            },
        );
        if missing == 0 {
            self.complete(&class);
        }
    }

    fn answered(&mut self, class: Option<ClassId>, request: u64, index: usize, answer: Answer) {
        let Some(class) = class else {
            report(&self.core.log, &answer, Some("generic"));
            self.background = self.background.saturating_sub(1);
            return;
        };
        let wanted = self.wanted.get_mut(&class);
        let Some(wanted) = wanted.filter(|w| w.request == request) else {
            return;
        };
        report(&self.core.log, &answer, Some(&class.to_string()));
        if wanted.answers[index].replace(answer).is_none() {
            wanted.missing -= 1;
        }
        if wanted.missing == 0 {
            self.complete(&class);
        }
    }

    /// Every kernel of a class has its answer.
    fn complete(&mut self, class: &ClassId) {
        let Some(mut wanted) = self.wanted.remove(class) else {
            return;
        };
        let answers: Vec<Answer> = wanted.answers.drain(..).flatten().collect();
        let micros = answers
            .iter()
            .filter_map(|a| a.as_ref().ok())
            .map(|r| r.micros)
            .sum();
        let failure = answers.iter().find_map(|a| a.as_ref().err().cloned());
        match failure {
            Some(e) => self.finished(class, micros, Err(e.into())),
            None => {
                self.compiled.insert(class.clone(), (wanted, answers));
                self.finished(class, micros, Ok(()));
            }
        }
    }

    fn finished(&mut self, class: &ClassId, micros: u64, result: Result<(), Error>) {
        if let Err(e) = &result {
            let (class, reason) = (class.to_string(), e.to_string());
            self.core.log.push(EventKind::Reject { class, reason });
        }
        let ok = result.is_ok();
        self.event(
            What::CompileFinished {
                class: class.clone(),
                ok,
                micros,
            },
            None,
        );
    }

    /// Calls off the compiles of a class; kernels that other classes wait for as well are compiled all the same.
    fn cancel(&mut self, class: &ClassId) {
        let Some(wanted) = self.wanted.remove(class) else {
            return;
        };
        for ticket in &wanted.tickets {
            ticket.cancel();
        }
        self.core.log.push(EventKind::Cancel {
            class: class.to_string(),
            kernels: wanted.missing,
            reason: "stale",
        });
    }

    fn install(&mut self, class: &ClassId) {
        let Some((wanted, answers)) = self.compiled.remove(class) else {
            return;
        };
        let start = Instant::now();
        let program = match self.make_ready(class, &wanted, &answers) {
            Ok(program) => program,
            Err(e) => return self.refuse(class, e.to_string()),
        };
        let times = Times {
            kernels: wanted.distinct.specs.len(),
            compile_us: (start - wanted.since).as_micros() as u64,
            install_us: start.elapsed().as_micros() as u64,
        };
        if self.core.verify_swap {
            self.trials.insert(class.clone(), times);
            return self.core.put_candidate(class, program);
        }
        self.put_in_service(class, program, times);
    }

    /// Loads a class's kernels and makes its graph on every lane.
    fn make_ready(
        &mut self,
        class: &ClassId,
        wanted: &Wanted,
        answers: &[Answer],
    ) -> Result<Arc<Program>, Error> {
        let core = &self.core;
        let id = self.next_program;
        self.next_program += 1;
        let program = core.loader.program(
            id,
            Some(class.clone()),
            &wanted.blueprint,
            &wanted.distinct,
            answers,
        )?;
        let program = Arc::new(program);
        if core.whole_graph {
            for lane in core.executables() {
                lane.prepare(
                    &program,
                    &core.plan,
                    &*core.loader.device,
                    &*self.stream,
                    &core.log,
                    false,
                )?;
            }
        }
        Ok(program)
    }

    fn put_in_service(&mut self, class: &ClassId, program: Arc<Program>, times: Times) {
        self.core.put_program(class, program);
        self.core.log.push(EventKind::Install {
            class: class.to_string(),
            kernels: times.kernels,
            compile_us: times.compile_us,
            install_us: times.install_us,
        });
        let class = class.clone();
        self.event(What::Installed { class }, None);
    }

    /// A class has no program after all; asking for it again would fail again.
    fn refuse(&mut self, class: &ClassId, reason: String) {
        self.core.log.push(EventKind::Reject {
            class: class.to_string(),
            reason,
        });
        let class = class.clone();
        self.event(What::InstallFailed { class }, None);
    }

    fn judged(
        &mut self,
        class: &ClassId,
        candidate: Arc<Program>,
        verdict: Result<Verdict, Error>,
    ) {
        // evicted while it was tried
        let Some(times) = self.trials.remove(class) else {
            return self.retire(&candidate);
        };
        let reason = match &verdict {
            Ok(verdict) => verdict.reason.clone(),
            Err(e) => Some(e.to_string()),
        };
        if let Ok(verdict) = verdict {
            self.core.log.push(EventKind::Trial {
                class: class.to_string(),
                passed: reason.is_none(),
                max_abs: verdict.max_abs,
                served_us: verdict.served_us,
                candidate_us: verdict.candidate_us,
            });
        }
        match reason {
            None => self.put_in_service(class, candidate, times),
            Some(reason) => {
                self.retire(&candidate);
                self.refuse(class, reason);
            }
        }
    }

    fn retire(&self, program: &Program) {
        for lane in self.core.executables() {
            lane.retire(program.id);
        }
    }

    fn evict(&mut self, class: &ClassId) {
        self.compiled.remove(class);
        self.trials.remove(class);
        let candidate = self.core.drop_candidate(class);
        for program in self.core.take_program(class).into_iter().chain(candidate) {
            self.retire(&program);
        }
        self.evicted(class, "policy");
    }

    fn evicted(&mut self, class: &ClassId, reason: &'static str) {
        self.core.log.push(EventKind::Evict {
            class: class.to_string(),
            reason,
        });
        self.event(
            What::Evicted {
                class: class.clone(),
            },
            None,
        );
    }
}
