//! A panic anywhere in a run is a violation: not everybody misses a task that has died of one.

use std::{cell::RefCell, sync::Once};

thread_local! {
    /// Those of the run at hand, if there is one on this thread.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Collects the panics of this thread from now on, instead of printing them.
pub fn collect() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let collected = PANICS.try_with(|panics| {
                let mut panics = panics.borrow_mut();
                panics.as_mut().map(|panics| panics.push(format!("panic: {panic}"))).is_some()
            });
            if !collected.unwrap_or(false) {
                before(panic);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
}

/// What has been collected; from now on panics are printed again.
pub fn take() -> Vec<String> {
    PANICS.take().unwrap_or_default()
}
