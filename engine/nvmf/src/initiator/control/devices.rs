//! Namespaces that controllers of one name lead to, as devices: how they appear, are seen, and vanish. Knows no connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use spinel_core::Device;

use super::super::device::{RemoteDevice, Shared};
use super::super::host::Network;
use super::super::note::{HostId, Told};
use super::super::view::{DeviceId, Limits, Mood, PathId, Policy, View, Way};
use super::facts::{Identity, NamespaceFacts};
use super::path::{Path, Stage};
use super::{Event, State};

/// A namespace that is a device.
pub(super) struct Member<N> {
    pub(super) id: DeviceId,
    pub(super) identity: Identity,
    pub(super) shared: Arc<Shared>,
    pub(super) device: Arc<RemoteDevice<N>>,
    /// What limits single commands, by whatever controller.
    limits: Limits,
    pub(super) view: Arc<View>,
}

/// Controllers of one name.
pub(super) struct Group<N> {
    pub(super) policy: Policy,
    pub(super) members: BTreeMap<u32, Member<N>>,
}

impl<N> Group<N> {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy, members: BTreeMap::new() }
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = DeviceId> + '_ {
        self.members.values().map(|member| member.id)
    }
}

impl<N: Network> State<N> {
    /// Makes and forgets devices as controllers of a name have namespaces.
    pub(super) fn update(&mut self, name: &str) {
        let Some(mut group) = self.groups.remove(name) else { return };
        let paths: Vec<(PathId, &Path)> =
            self.paths.iter().filter(|(_, path)| path.spec.name == name).map(|(id, path)| (*id, path)).collect();
        let live = paths.iter().map(|(_, path)| *path).filter(|path| path.is_live());
        // A controller that is lost may still have what it had.
        let may_have =
            |nsid: u32| paths.iter().any(|(_, path)| !path.is_live() && !path.leaving && path.script.namespaces.contains_key(&nsid));
        let mut found: BTreeMap<u32, Vec<(&Path, NamespaceFacts)>> = BTreeMap::new();
        for path in live {
            for (nsid, facts) in &path.script.namespaces {
                found.entry(*nsid).or_default().push((path, *facts));
            }
        }
        let mut events = Vec::new();
        let of = |nsid| (name.to_owned(), nsid);
        group.members.retain(|nsid, member| {
            let same = |(_, facts): &(&Path, NamespaceFacts)| {
                facts.identity == member.identity && facts.block_bytes == member.shared.block_bytes()
            };
            let stays = match found.get(nsid) {
                Some(by) => by.iter().any(same),
                None => may_have(*nsid),
            };
            if !stays {
                member.shared.vanish();
                let gone = Arc::new(View { ways: Vec::new(), mood: Mood::Gone, ..View::clone(&member.view) });
                let hosts = self.wanted.get(&member.id).into_iter().flatten();
                hosts.for_each(|host| self.tell(*host, Told::View { device: member.id, view: Arc::clone(&gone) }));
                let (name, nsid) = of(*nsid);
                events.push(Event::Vanished { name, nsid });
            }
            stays
        });
        let mut next = self.next_id;
        for (nsid, by) in &found {
            let (path, facts) = by.first().expect("somebody has found it");
            match group.members.get(nsid) {
                Some(member) => {
                    let newest = by.iter().rev().find(|(_, facts)| facts.identity == member.identity).map_or(facts, |(_, facts)| facts);
                    if member.shared.change(newest.block_count, newest.read_only) {
                        let (name, nsid) = of(*nsid);
                        events.push(Event::Changed { name, nsid });
                    }
                }
                None if group.members.len() < path.spec.namespaces_max as usize => {
                    next += 1;
                    let Some(member) = self.member(DeviceId(next), path, facts, group.policy) else { continue };
                    let (name, nsid) = of(*nsid);
                    let uuid = Some(facts.identity.uuid).filter(|uuid| *uuid != [0; 16]);
                    let device = Arc::clone(&member.device) as Arc<dyn Device>;
                    group.members.insert(nsid, member);
                    events.push(Event::Appeared { name, nsid, uuid, device });
                }
                None => tracing::warn!("namespace {nsid} of '{name}' is one more than become devices"),
            }
        }
        self.next_id = next;
        self.groups.insert(name.to_owned(), group);
        self.events.extend(events);
    }

    /// A new device.
    fn member(&self, id: DeviceId, path: &Path, facts: &NamespaceFacts, policy: Policy) -> Option<Member<N>> {
        let controller = path.script.controller.as_ref()?;
        let shared = Arc::new(Shared::new(facts.geometry(controller)));
        let limits = facts.limits(controller, self.settings.retries);
        let view = Arc::new(View { ways: Vec::new(), mood: Mood::Patient, policy, limits });
        let (network, said) = (Arc::clone(&self.network), self.said.clone());
        let device = Arc::new(RemoteDevice { id, shared: Arc::clone(&shared), network, said });
        Some(Member { id, identity: facts.identity, shared, device, limits, view })
    }

    /// Tells everybody how devices of a name are reached now, if that has changed; anew in any case if `anew`.
    pub(super) fn publish(&mut self, name: &str, anew: bool) {
        let Some(mut group) = self.groups.remove(name) else { return };
        let mood = self.mood_of(name);
        let policy = group.policy;
        for (nsid, member) in &mut group.members {
            let ways = self.ways_of(name, *nsid, member);
            let view = View { ways, mood, policy, limits: member.limits };
            if anew || view != *member.view {
                member.view = Arc::new(view);
                for host in self.wanted.get(&member.id).into_iter().flatten() {
                    self.tell(*host, Told::View { device: member.id, view: Arc::clone(&member.view) });
                }
            }
        }
        self.groups.insert(name.to_owned(), group);
    }

    /// Requests wait as long as somebody may still come back.
    fn mood_of(&self, name: &str) -> Mood {
        let mut paths = self.paths.values().filter(|path| path.spec.name == name && !path.leaving).peekable();
        if paths.peek().is_none() {
            return Mood::Failing;
        }
        let failing = |path: &Path| !path.is_live() && path.failing;
        if paths.all(failing) { Mood::Failing } else { Mood::Patient }
    }

    fn ways_of(&self, name: &str, nsid: u32, member: &Member<N>) -> Vec<Way> {
        let geometry = member.shared.geometry();
        let leads = |(id, path): (&PathId, &Path)| {
            let facts = path.script.namespaces.get(&nsid)?;
            let controller = path.script.controller.as_ref()?;
            if facts.identity != member.identity || facts.block_bytes != geometry.block_bytes {
                tracing::warn!("namespace {nsid} of '{name}' is another one by {}: that is no way to it", path.spec.address);
                return None;
            }
            let own = facts.geometry(controller);
            if own.transfer_max_bytes < geometry.transfer_max_bytes || (own.write_cache && !geometry.write_cache) {
                tracing::warn!("namespace {nsid} of '{name}' can do less by {}: that is no way to it", path.spec.address);
                return None;
            }
            let state = path.script.state_of(facts);
            Some(Way { path: *id, nsid, state, preferred: path.preferred })
        };
        self.paths.iter().filter(|(_, path)| path.spec.name == name && path.stage == Stage::Live).filter_map(leads).collect()
    }

    /// The first channel of a device was opened on a core, or the last one closed.
    pub(super) fn wanted(&mut self, host: HostId, device: DeviceId, wanted: bool) {
        let hosts: &mut BTreeSet<HostId> = self.wanted.entry(device).or_default();
        if !wanted {
            hosts.remove(&host);
            if hosts.is_empty() {
                self.wanted.remove(&device);
            }
            return;
        }
        hosts.insert(host);
        let known = self.groups.iter().find_map(|(name, group)| {
            group.members.values().find(|member| member.id == device).map(|member| (name.clone(), Arc::clone(&member.view)))
        });
        let Some((name, view)) = known else {
            let limits = Limits { zeroes_blocks: 1, discard_blocks: 1, retries: 0 };
            let gone = View { ways: Vec::new(), mood: Mood::Gone, policy: Policy::ActivePassive, limits };
            return self.tell(host, Told::View { device, view: Arc::new(gone) });
        };
        self.tell(host, Told::View { device, view });
        let paths: Vec<PathId> = self.paths.iter().filter(|(_, path)| path.spec.name == name).map(|(id, _)| *id).collect();
        paths.into_iter().for_each(|id| self.reach(id));
    }
}
