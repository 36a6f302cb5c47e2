//! Every scenario in a process of its own, with a time limit. See `docs/faults.md` for what each is about.

mod process;

use process::Scenario;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            Scenario::new(stringify!($name)).passes();
        }
    )*};
}

scenarios! {
    an_ordinary_failure_of_any_call,
    out_of_memory_at_any_call,
    a_lost_device_at_any_call,
}
