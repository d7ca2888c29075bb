//! A table of methods, and when each may be called. It refuses to know what they do.

use crate::RpcError;
use serde_json::Value;
use std::collections::BTreeMap;

/// Where a daemon is: SPDK's two states, which `framework_start_init` divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Options are being set; nothing runs.
    Startup,
    /// Initialised; disks are served.
    Runtime,
}

/// In which phase a method is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before initialisation only.
    Startup,
    /// After it only.
    Runtime,
    /// At any time.
    Always,
}

impl When {
    fn includes(self, phase: Phase) -> bool {
        match self {
            Self::Always => true,
            Self::Startup => phase == Phase::Startup,
            Self::Runtime => phase == Phase::Runtime,
        }
    }
}

/// What runs for a method: the state it works on, and its parameters.
pub type Run<S> = fn(&S, Option<&Value>) -> Result<Value, RpcError>;

/// Methods by name, over a state `S`.
#[derive(Debug)]
pub struct Methods<S: ?Sized + 'static> {
    table: BTreeMap<&'static str, Method<S>>,
}

#[derive(Debug)]
struct Method<S: ?Sized + 'static> {
    when: When,
    run: Run<S>,
    is_alias: bool,
}

impl<S: ?Sized> Default for Methods<S> {
    fn default() -> Self {
        Self { table: BTreeMap::new() }
    }
}

impl<S: ?Sized> Methods<S> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a method.
    ///
    /// # Panics
    /// If there is one of this name: two methods of one name are a mistake in the program.
    #[must_use]
    pub fn with(self, name: &'static str, when: When, run: Run<S>) -> Self {
        let is_alias = false;
        self.insert(name, Method { when, run, is_alias })
    }

    /// Adds `alias`, an old name of the method `name`.
    ///
    /// # Panics
    /// If there is no method `name`, or one called `alias` already.
    #[must_use]
    pub fn with_alias(self, alias: &'static str, name: &'static str) -> Self {
        let method = self.table.get(name);
        let &Method { when, run, .. } = method.expect("an alias is of a method that is there");
        let is_alias = true;
        self.insert(alias, Method { when, run, is_alias })
    }

    fn insert(mut self, name: &'static str, method: Method<S>) -> Self {
        let earlier = self.table.insert(name, method);
        assert!(earlier.is_none(), "method '{name}' is there twice");
        self
    }

    /// Runs a method, if there is one of this name and `phase` is a time for it.
    pub fn call(&self, state: &S, phase: Phase, name: &str, params: Option<&Value>) -> Result<Value, RpcError> {
        let method = self.table.get(name).ok_or_else(|| RpcError::method_not_found(name))?;
        if !method.when.includes(phase) {
            return Err(RpcError::wrong_state(match phase {
                Phase::Runtime => format!(
                    "method '{name}' is accepted before initialisation only, and \
                     framework_start_init has been done; start the daemon anew to call it"
                ),
                Phase::Startup => format!(
                    "method '{name}' is accepted after initialisation only; \
                     call framework_start_init first"
                ),
            }));
        }
        (method.run)(state, params)
    }

    /// The names, sorted: all, or those accepted in `phase`; old names where asked for.
    pub fn names(&self, phase: Option<Phase>, aliases: bool) -> Vec<&'static str> {
        let listed = |method: &Method<S>| (aliases || !method.is_alias) && phase.is_none_or(|phase| method.when.includes(phase));
        self.table.iter().filter(|(_, method)| listed(method)).map(|(name, _)| *name).collect()
    }

    /// The reply to `rpc_get_methods` with these `params`: `current` lists only what `phase`
    /// accepts, `include_aliases` (on unless told otherwise) old names as well.
    pub fn list(&self, phase: Phase, params: Option<&Value>) -> Result<Value, RpcError> {
        #[derive(serde::Deserialize)]
        struct List {
            #[serde(default)]
            current: bool,
            #[serde(default = "yes")]
            include_aliases: bool,
        }
        fn yes() -> bool {
            true
        }
        let list: List = crate::params::parse(params)?;
        Ok(self.names(list.current.then_some(phase), list.include_aliases).into())
    }
}

#[cfg(test)]
mod tests {
    use super::{Methods, Phase, When};
    use crate::RpcError;
    use serde_json::{Value, json};
    use std::cell::Cell;

    fn count(calls: &Cell<u32>, params: Option<&Value>) -> Result<Value, RpcError> {
        calls.set(calls.get() + 1);
        Ok(params.cloned().unwrap_or(Value::Null))
    }

    fn table() -> Methods<Cell<u32>> {
        Methods::new()
            .with("set_options", When::Startup, count)
            .with("create", When::Runtime, count)
            .with("version", When::Always, count)
            .with_alias("construct", "create")
    }

    #[test]
    fn a_method_runs_in_its_phase_and_gets_its_parameters() {
        let (methods, calls) = (table(), Cell::new(0));
        let params = json!({"a": 1});
        let call = |phase, name| methods.call(&calls, phase, name, Some(&params));
        assert_eq!(call(Phase::Startup, "set_options"), Ok(params.clone()));
        assert_eq!(call(Phase::Runtime, "construct"), Ok(params.clone()));
        assert_eq!(call(Phase::Startup, "version"), Ok(params.clone()));
        assert_eq!(call(Phase::Runtime, "version"), Ok(params.clone()));
        assert_eq!(calls.get(), 4);
    }

    #[test]
    fn a_method_out_of_its_phase_is_wrong_state_and_does_not_run() {
        let (methods, calls) = (table(), Cell::new(0));
        for (phase, name) in [(Phase::Startup, "create"), (Phase::Startup, "construct"), (Phase::Runtime, "set_options")] {
            let error = methods.call(&calls, phase, name, None).expect_err(name);
            assert_eq!(error.code, -1);
            assert!(error.message.contains(name), "{error}");
            assert!(error.message.contains("framework_start_init"), "{error}");
        }
        assert_eq!(calls.get(), 0);
    }

    #[test]
    fn an_unknown_method_is_named() {
        let error = table().call(&Cell::new(0), Phase::Runtime, "creat", None).expect_err("unknown");
        assert_eq!(error.code, -32601);
        assert!(error.message.contains("'creat'"), "{error}");
    }

    #[test]
    fn the_list_is_sorted_and_can_be_narrowed() {
        let methods = table();
        let list = |params: Value| methods.list(Phase::Runtime, Some(&params));
        let all = json!(["construct", "create", "set_options", "version"]);
        assert_eq!(methods.list(Phase::Startup, None), Ok(all.clone()));
        assert_eq!(list(json!({"current": true})), Ok(json!(["construct", "create", "version"])));
        assert_eq!(list(json!({"current": true, "include_aliases": false})), Ok(json!(["create", "version"])));
        assert_eq!(list(json!({"curent": true})).expect_err("unknown").code, -32602);
    }

    #[test]
    #[should_panic(expected = "'create' is there twice")]
    fn two_methods_of_one_name_are_refused() {
        let _ = table().with("create", When::Always, count);
    }
}
