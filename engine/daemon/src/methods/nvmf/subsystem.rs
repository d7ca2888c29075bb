//! Subsystems, the ways to them, and who is connected. Knows no namespace.

use serde::Deserialize;
use serde_json::{Value, json};
use spinel_control::{RpcError, params};
use spinel_nvmf::nqn::DISCOVERY_NQN;
use spinel_nvmf::target::{Address, AnaState, ControllerInfo, Identity, ListenerInfo, ListenerSpec, PortId, SubsystemInfo, SubsystemSpec};

use super::{Answer, ListenAddress, TRANSPORT, check_target, describe_address, name, refuse, refuse_listening, wait};
use crate::disks::errno;
use crate::engine::Engine;

const NAMESPACES_DEFAULT: u32 = 32;
const SERIAL_DEFAULT: &str = "00000000000000000000";
const MODEL_DEFAULT: &str = "Spinel";
/// The lowest and the highest identifier that a controller may have.
const CNTLIDS: (u16, u16) = (1, 0xffef);

/// `nvmf_create_subsystem`.
pub(crate) fn create(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct Create {
        nqn: String,
        #[serde(default)]
        tgt_name: Option<String>,
        #[serde(default)]
        serial_number: Option<String>,
        #[serde(default)]
        model_number: Option<String>,
        #[serde(default)]
        allow_any_host: bool,
        #[serde(default)]
        max_namespaces: u32,
        #[serde(default)]
        ana_reporting: bool,
        #[serde(default)]
        min_cntlid: Option<u16>,
        #[serde(default)]
        max_cntlid: Option<u16>,
    }
    let asked: Create = params::parse(params)?;
    check_target(asked.tgt_name.as_deref())?;
    let identity = Identity {
        nqn: name("nqn", &asked.nqn)?,
        serial: asked.serial_number.unwrap_or_else(|| SERIAL_DEFAULT.into()),
        model: asked.model_number.unwrap_or_else(|| MODEL_DEFAULT.into()),
        namespaces_max: if asked.max_namespaces == 0 { NAMESPACES_DEFAULT } else { asked.max_namespaces },
        ana: asked.ana_reporting,
        cntlids: (asked.min_cntlid.unwrap_or(CNTLIDS.0), asked.max_cntlid.unwrap_or(CNTLIDS.1)),
    };
    let spec = SubsystemSpec { identity, allow_any_host: asked.allow_any_host };
    engine.nvmf().target().create_subsystem(spec).map_err(|error| refuse(&error))?;
    Ok(true.into())
}

/// `nvmf_delete_subsystem`: ends the connections of its hosts first.
pub(crate) fn delete(engine: &Engine, params: Option<&Value>) -> Answer {
    let nqn = named(params)?;
    let target = engine.nvmf().target();
    let pending = target.close_subsystem(&nqn).map_err(|error| refuse(&error))?;
    wait(&pending, &format!("subsystem '{nqn}' serves nobody any more; delete it again later"))?;
    if !target.forget_subsystem(&nqn) {
        return Err(RpcError::errno(errno::BUSY, format!("subsystem '{nqn}' has connections that end only now; delete it again")));
    }
    engine.nvmf().tidy_listeners();
    Ok(true.into())
}

/// The parameters of a method that only names a subsystem.
fn named(params: Option<&Value>) -> Result<String, RpcError> {
    #[derive(Deserialize)]
    struct Named {
        nqn: String,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let Named { nqn, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    Ok(nqn)
}

/// `nvmf_get_subsystems`.
pub(crate) fn list(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GetSubsystems {
        #[serde(default)]
        nqn: Option<String>,
        #[serde(default)]
        tgt_name: Option<String>,
    }
    let GetSubsystems { nqn, tgt_name } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let discovery = json!({"nqn": DISCOVERY_NQN, "subtype": "Discovery", "listen_addresses": [], "allow_any_host": true, "hosts": []});
    match nqn {
        None => {
            let subsystems = engine.nvmf().target().subsystems();
            Ok(std::iter::once(discovery).chain(subsystems.iter().map(describe)).collect())
        }
        Some(nqn) if nqn == DISCOVERY_NQN => Ok(json!([discovery])),
        Some(nqn) => Ok(json!([describe(&find(engine, &nqn)?)])),
    }
}

/// The subsystem of this name; -19 if there is none.
fn find(engine: &Engine, nqn: &str) -> Result<SubsystemInfo, RpcError> {
    let found = engine.nvmf().target().subsystems().into_iter().find(|found| found.identity.nqn.as_str() == nqn);
    found.ok_or_else(|| {
        RpcError::errno(errno::NO_DEVICE, format!("there is no subsystem '{nqn}'; nvmf_get_subsystems lists those there are"))
    })
}

fn describe(subsystem: &SubsystemInfo) -> Value {
    let identity = &subsystem.identity;
    let addresses: Value = subsystem
        .listeners
        .iter()
        .map(|listener| {
            let mut address = describe_address(&listener.address);
            address["transport"] = TRANSPORT.into();
            address
        })
        .collect();
    let namespaces: Value = subsystem.namespaces.iter().map(super::namespace::describe).collect();
    json!({
        "nqn": identity.nqn.as_str(),
        "subtype": "NVMe",
        "listen_addresses": addresses,
        "allow_any_host": subsystem.allow_any_host,
        "hosts": subsystem.hosts.iter().map(super::host::describe).collect::<Value>(),
        "serial_number": identity.serial,
        "model_number": identity.model,
        "max_namespaces": identity.namespaces_max,
        "min_cntlid": identity.cntlids.0,
        "max_cntlid": identity.cntlids.1,
        "ana_reporting": identity.ana,
        "namespaces": namespaces,
    })
}

/// How a group is reached, as the methods have it.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Optimized,
    NonOptimized,
    Inaccessible,
}

impl From<State> for AnaState {
    fn from(state: State) -> Self {
        match state {
            State::Optimized => Self::Optimized,
            State::NonOptimized => Self::NonOptimized,
            State::Inaccessible => Self::Inaccessible,
        }
    }
}

fn state_name(state: AnaState) -> &'static str {
    match state {
        AnaState::Optimized => "optimized",
        AnaState::NonOptimized => "non_optimized",
        AnaState::Inaccessible => "inaccessible",
    }
}

#[derive(Deserialize)]
struct AddListener {
    nqn: String,
    #[serde(default)]
    tgt_name: Option<String>,
    listen_address: ListenAddress,
    /// Where hosts are told to connect, if they reach this target by another address than its own.
    #[serde(default)]
    advertised_address: Option<ListenAddress>,
    #[serde(default)]
    ana_state: Option<State>,
    #[serde(default)]
    secure_channel: bool,
    /// There is one kind of sockets.
    #[serde(default, rename = "sock_impl")]
    _sock_impl: Option<String>,
}

/// `nvmf_subsystem_add_listener`.
pub(crate) fn add_listener(engine: &Engine, params: Option<&Value>) -> Answer {
    let asked: AddListener = params::parse(params)?;
    check_target(asked.tgt_name.as_deref())?;
    let address = asked.listen_address.parse("listen_address")?;
    let advertised = asked.advertised_address.as_ref().map(|address| address.parse("advertised_address")).transpose()?;
    if asked.secure_channel {
        return Err(params::refuse("secure_channel", true, "false, because TLS is not built"));
    }
    if engine.nvmf().transport().is_none() {
        return Err(RpcError::errno(errno::NO_DEVICE, format!("there is no transport '{TRANSPORT}'; nvmf_create_transport makes it")));
    }
    if asked.nqn == DISCOVERY_NQN {
        // Discovery answers wherever anybody listens; on its own address only if it is given one.
        engine.nvmf().listen(&address, advertised).map_err(|error| refuse_listening(&error))?;
        return Ok(true.into());
    }
    find(engine, &asked.nqn)?;
    let port = engine.nvmf().listen(&address, advertised).map_err(|error| refuse_listening(&error))?;
    let spec = ListenerSpec { port, state: asked.ana_state.map_or(AnaState::Optimized, Into::into) };
    match engine.nvmf().target().add_listener(&asked.nqn, &spec) {
        Ok(_) => Ok(true.into()),
        Err(error) => {
            engine.nvmf().tidy_listeners();
            Err(refuse(&error))
        }
    }
}

/// The port of an address; -19 if nobody listens there.
fn port(engine: &Engine, address: &Address) -> Result<PortId, RpcError> {
    engine
        .nvmf()
        .target()
        .port(address)
        .ok_or_else(|| RpcError::errno(errno::NO_DEVICE, format!("nobody listens at {address}; nvmf_subsystem_get_listeners lists where")))
}

/// `nvmf_subsystem_remove_listener`: hosts that have come by it are disconnected.
pub(crate) fn remove_listener(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct RemoveListener {
        nqn: String,
        #[serde(default)]
        tgt_name: Option<String>,
        listen_address: ListenAddress,
    }
    let RemoveListener { nqn, tgt_name, listen_address } = params::parse(params)?;
    check_target(tgt_name.as_deref())?;
    let address = listen_address.parse("listen_address")?;
    let port = port(engine, &address)?;
    if nqn != DISCOVERY_NQN {
        let pending = engine.nvmf().target().remove_listener(&nqn, port).map_err(|error| refuse(&error))?;
        engine.nvmf().tidy_listeners();
        wait(&pending, &format!("'{nqn}' is not reached by {address} any more"))?;
    }
    engine.nvmf().tidy_listeners();
    Ok(true.into())
}

/// `nvmf_subsystem_get_listeners`.
pub(crate) fn listeners(engine: &Engine, params: Option<&Value>) -> Answer {
    let subsystem = find(engine, &named(params)?)?;
    let describe = |listener: &ListenerInfo| {
        let groups = 1..=subsystem.identity.namespaces_max;
        let states: Value =
            groups.map(|group| json!({"ana_group": group, "ana_state": state_name(listener.states.state(group))})).collect();
        let mut described = json!({"address": describe_address(&listener.address)});
        if let Some(advertised) = &listener.advertised {
            described["advertised_address"] = describe_address(advertised);
        }
        if subsystem.identity.ana {
            described["ana_states"] = states;
        }
        described
    };
    Ok(subsystem.listeners.iter().map(describe).collect())
}

/// `nvmf_subsystem_listener_set_ana_state`: of one group, or of all.
pub(crate) fn set_ana_state(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct SetAnaState {
        nqn: String,
        #[serde(default)]
        tgt_name: Option<String>,
        listen_address: ListenAddress,
        ana_state: State,
        #[serde(default)]
        anagrpid: u32,
    }
    let asked: SetAnaState = params::parse(params)?;
    check_target(asked.tgt_name.as_deref())?;
    let address = asked.listen_address.parse("listen_address")?;
    let group = Some(asked.anagrpid).filter(|group| *group != 0);
    set_states(engine, &asked.nqn, &address, &[(group, asked.ana_state.into())])
}

/// `spinel_nvmf_set_ana_states`: of many groups at once. Every host sees all of it or nothing.
pub(crate) fn set_ana_states(engine: &Engine, params: Option<&Value>) -> Answer {
    #[derive(Deserialize)]
    struct GroupState {
        anagrpid: u32,
        ana_state: State,
    }
    #[derive(Deserialize)]
    struct SetAnaStates {
        nqn: String,
        #[serde(default)]
        tgt_name: Option<String>,
        listen_address: ListenAddress,
        groups: Vec<GroupState>,
    }
    let asked: SetAnaStates = params::parse(params)?;
    check_target(asked.tgt_name.as_deref())?;
    let address = asked.listen_address.parse("listen_address")?;
    let states: Vec<_> = asked.groups.iter().map(|group| (Some(group.anagrpid), group.ana_state.into())).collect();
    set_states(engine, &asked.nqn, &address, &states)
}

fn set_states(engine: &Engine, nqn: &str, address: &Address, states: &[(Option<u32>, AnaState)]) -> Answer {
    let port = port(engine, address)?;
    let pending = engine.nvmf().target().set_ana_states(nqn, port, states).map_err(|error| refuse(&error))?;
    wait(&pending, &format!("'{nqn}' is reached by {address} in another way"))?;
    Ok(true.into())
}

/// `nvmf_subsystem_get_controllers`.
pub(crate) fn controllers(engine: &Engine, params: Option<&Value>) -> Answer {
    let describe = |controller: ControllerInfo| {
        json!({
            "cntlid": controller.cntlid,
            "hostnqn": controller.host.as_str(),
            "hostid": uuid::Uuid::from_bytes(controller.host_id.0),
            "num_io_qpairs": controller.queues.iter().filter(|queue| queue.qid > 0).count(),
        })
    };
    Ok(controllers_of(engine, &named(params)?)?.into_iter().map(describe).collect())
}

fn controllers_of(engine: &Engine, nqn: &str) -> Result<Vec<ControllerInfo>, RpcError> {
    if nqn == DISCOVERY_NQN { Ok(engine.nvmf().target().discovery_controllers()) } else { Ok(find(engine, nqn)?.controllers) }
}

/// `nvmf_subsystem_get_qpairs`.
pub(crate) fn queues(engine: &Engine, params: Option<&Value>) -> Answer {
    let mut described = Vec::new();
    for controller in controllers_of(engine, &named(params)?)? {
        for queue in &controller.queues {
            let (host, service) = queue.peer.rsplit_once(':').unwrap_or((&queue.peer, ""));
            let peer = Address { host: host.trim_matches(['[', ']']).into(), service: service.into(), ..queue.arrived.clone() };
            described.push(json!({
                "cntlid": controller.cntlid,
                "qid": queue.qid,
                "state": "active",
                "thread": format!("core_{}", queue.core.0),
                "hostnqn": controller.host.as_str(),
                "listen_address": describe_address(&queue.arrived),
                "peer_address": describe_address(&peer),
            }));
        }
    }
    Ok(described.into())
}

/// The calls that make all subsystems again.
pub(super) fn creation(engine: &Engine) -> Vec<(&'static str, Value)> {
    let mut calls = Vec::new();
    for subsystem in engine.nvmf().target().subsystems() {
        let identity = &subsystem.identity;
        let nqn = identity.nqn.as_str();
        calls.push((
            "nvmf_create_subsystem",
            json!({
                "nqn": nqn, "allow_any_host": subsystem.allow_any_host, "serial_number": identity.serial, "model_number": identity.model,
                "max_namespaces": identity.namespaces_max, "min_cntlid": identity.cntlids.0, "max_cntlid": identity.cntlids.1,
                "ana_reporting": identity.ana,
            }),
        ));
        calls.extend(super::host::creation(&subsystem));
        calls.extend(super::namespace::creation(&subsystem));
        for listener in &subsystem.listeners {
            calls.extend(listener_creation(&subsystem, listener));
        }
    }
    calls
}

fn listener_creation(subsystem: &SubsystemInfo, listener: &ListenerInfo) -> Vec<(&'static str, Value)> {
    let nqn = subsystem.identity.nqn.as_str();
    let address = describe_address(&listener.address);
    let mut params = json!({"nqn": nqn, "listen_address": address, "secure_channel": false});
    if let Some(advertised) = &listener.advertised {
        params["advertised_address"] = describe_address(advertised);
    }
    let groups: Value = listener.states.others().map(|(group, state)| json!({"anagrpid": group, "ana_state": state_name(state)})).collect();
    let states = json!({"nqn": nqn, "listen_address": address, "groups": groups});
    let mut calls = vec![("nvmf_subsystem_add_listener", params)];
    if states["groups"].as_array().is_some_and(|groups| !groups.is_empty()) {
        calls.push(("spinel_nvmf_set_ana_states", states));
    }
    calls
}
