//! Which engine runs: what the user asks for, or what the host has.

use std::{
    fmt,
    num::NonZeroUsize,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Engine, EngineError, EngineReport, PageQueue, SoftwareEngine,
    hardware::{self, HardwareEngine},
    qpl_software_engine,
};
use crate::ram::Placement;

/// An engine by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// The device if a probe job works on it, else this crate's software.
    #[default]
    Auto,
    /// The device, or nothing.
    Iaa,
    /// libqpl's software path, or nothing.
    QplSoftware,
    /// This crate's software.
    Software,
}

impl EngineChoice {
    /// All of them, as the command line spells them.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("iaa", Self::Iaa),
        ("qpl-software", Self::QplSoftware),
        ("software", Self::Software),
    ];

    /// An engine of this kind that starts when the first channel opens a queue
    /// at it: a migration with another method than qpl needs none.
    pub fn start(
        self,
        workers: NonZeroUsize,
        device: hardware::Options,
        placement: &Arc<Placement>,
    ) -> Arc<dyn Engine> {
        Arc::new(Lazy {
            choice: self,
            workers,
            device,
            placement: Arc::clone(placement),
            started: Mutex::new(None),
        })
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, choice)| choice == self);
        f.write_str(name.map_or("auto", |(name, _)| name))
    }
}

/// A name that is no engine's.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an engine: choose auto, iaa, qpl-software or software")]
pub struct UnknownEngine(String);

impl FromStr for EngineChoice {
    type Err = UnknownEngine;

    fn from_str(text: &str) -> Result<Self, UnknownEngine> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|&(_, choice)| choice).ok_or_else(|| UnknownEngine(text.to_owned()))
    }
}

/// An engine that starts when it is first needed.
#[derive(Debug)]
struct Lazy {
    choice: EngineChoice,
    workers: NonZeroUsize,
    device: hardware::Options,
    placement: Arc<Placement>,
    started: Mutex<Option<Arc<dyn Engine>>>,
}

impl Lazy {
    fn start(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let placement = || Arc::clone(&self.placement);
        let software = |reason: String| -> Result<Arc<dyn Engine>, EngineError> {
            Ok(Arc::new(SoftwareEngine::new(self.workers, placement(), reason)?))
        };
        let asked = "asked for";
        match self.choice {
            EngineChoice::Software => software(asked.to_owned()),
            EngineChoice::QplSoftware => {
                Ok(Arc::new(qpl_software_engine(self.workers, placement(), asked)?))
            }
            EngineChoice::Iaa => {
                Ok(Arc::new(HardwareEngine::probe(placement(), self.device.clone())?))
            }
            EngineChoice::Auto => match HardwareEngine::probe(placement(), self.device.clone()) {
                Ok(engine) => Ok(Arc::new(engine)),
                Err(error) => software(error.to_string()),
            },
        }
    }
}

impl Engine for Lazy {
    fn open(&self) -> Result<Box<dyn PageQueue>, EngineError> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        match &*started {
            Some(engine) => engine.open(),
            None => {
                let engine = self.start()?;
                started.insert(engine).open()
            }
        }
    }

    fn report(&self) -> EngineReport {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.as_ref().map(|engine| engine.report()).unwrap_or_else(|| EngineReport {
            engine: "none".to_owned(),
            reason: "no page came with method qpl".to_owned(),
            ..EngineReport::default()
        })
    }
}
