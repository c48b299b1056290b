//! Which records a key of each role may write.

use crate::log::records::record::RecordBody;
use crate::log::roles::{Right, Role};

impl RecordBody {
    /// Who may write it. Whoever could make damage or a deletion up would decide what is kept, so that is no writer's. Nor is a bundle:
    /// readers that know nothing take from bundles what stands before such a record.
    pub(crate) fn right(&self) -> Right {
        match self {
            Self::Init(_) => Right::Root,
            Self::Backup(_) | Self::WalEpoch(_) | Self::WalGap(_) | Self::Incarnation(_) => {
                Right::Roles(&[Role::Writer])
            }
            // A later version may mean by it what only the pruner may say.
            Self::Unknown { .. }
            | Self::Forget(_)
            | Self::Keep(_)
            | Self::SweepIntent(_)
            | Self::SweepDone(_)
            | Self::Healed(_)
            | Self::Copy(_)
            | Self::Bundle(_) => Right::Roles(&[Role::Pruner]),
            Self::Damage(_) => Right::Roles(&[Role::Pruner, Role::Drill]),
            Self::Hold(_) | Self::Release(_) => Right::Roles(&[Role::Operator, Role::Pruner]),
            // Their content is judged by itself: the root key has signed it.
            Self::Signer(_) | Self::Audit(_) | Self::Void { .. } => Right::AnySigner,
        }
    }
}
