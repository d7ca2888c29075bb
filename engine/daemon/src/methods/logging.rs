//! The methods about the log. There is one log, on stderr, so SPDK's level and print level are the same here.

use serde::Deserialize;
use serde_json::{Map, Value};
use spinel_control::params;

use super::Answer;
use crate::engine::Engine;
use crate::log::{FLAGS, Level};

/// `log_set_level` and `log_set_print_level`.
pub(super) fn set_level(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct SetLevel {
        level: Level,
    }
    let SetLevel { level } = params::parse(params)?;
    engine.log().set_level(level)?;
    Ok(true.into())
}

/// `log_get_level` and `log_get_print_level`.
pub(super) fn level(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    Ok(engine.log().level().name().into())
}

/// `log_get_flags`.
pub(super) fn flags(engine: &Engine, params: Option<&Value>) -> Answer {
    params::none(params)?;
    let flags = engine.log().flags().into_iter().map(|(name, set)| (name.to_owned(), set.into()));
    Ok(flags.collect::<Map<String, Value>>().into())
}

/// `log_set_flag`.
pub(super) fn set_flag(engine: &Engine, params: Option<&Value>) -> Answer {
    change_flag(engine, params, true)
}

/// `log_clear_flag`.
pub(super) fn clear_flag(engine: &Engine, params: Option<&Value>) -> Answer {
    change_flag(engine, params, false)
}

fn change_flag(engine: &Engine, params: Option<&Value>, on: bool) -> Answer {
    #[derive(Deserialize)]
    struct ChangeFlag {
        flag: String,
    }
    let ChangeFlag { flag } = params::parse(params)?;
    if flag != "all" && FLAGS.iter().all(|known| known.name != flag) {
        let names: Vec<&str> = FLAGS.iter().map(|known| known.name).collect();
        return Err(params::refuse("flag", flag, format!("one of \"all\", \"{}\"", names.join("\", \""))));
    }
    engine.log().set_flag(&flag, on)?;
    Ok(true.into())
}
