//! Architectures, and which of several images a driver prefers on a device.

/// How far code for an architecture reaches beyond it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Reach {
    /// Plain (`sm_90`): machine code runs on later minors, PTX on every later architecture.
    Forward,
    /// Family specific (`sm_100f`): later minors of the same major, PTX included.
    Family,
    /// Architecture specific (`sm_90a`): this one only.
    Exact,
}

/// An architecture an image is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Arch {
    /// Major times 10 plus minor, as in `sm_86`.
    pub sm: u32,
    pub reach: Reach,
}

/// The place of an image among those of a fat binary: the greatest is loaded. Machine code goes before PTX, then the
/// nearest architecture, then the more specific code (of sm_90 and sm_90a the latter).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Rank {
    machine_code: bool,
    sm: u32,
    reach: Reach,
}

impl Arch {
    /// The rank of machine code for this architecture on a device of capability `cc`; None where it does not run.
    pub fn rank_code(self, cc: (u32, u32)) -> Option<Rank> {
        self.rank(cc, true, self.sm / 10 == cc.0 && self.sm % 10 <= cc.1)
    }

    /// The rank of PTX for this architecture on a device of capability `cc`; None where it can't be compiled.
    pub fn rank_ptx(self, cc: (u32, u32)) -> Option<Rank> {
        let (major, minor) = (self.sm / 10, self.sm % 10);
        let fits = match self.reach {
            Reach::Forward => (major, minor) <= cc,
            Reach::Family | Reach::Exact => major == cc.0 && minor <= cc.1,
        };
        self.rank(cc, false, fits)
    }

    fn rank(self, cc: (u32, u32), machine_code: bool, fits: bool) -> Option<Rank> {
        let fits = fits && (self.reach != Reach::Exact || self.sm % 10 == cc.1);
        fits.then_some(Rank { machine_code, sm: self.sm, reach: self.reach })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arch(sm: u32, reach: Reach) -> Arch {
        Arch { sm, reach }
    }

    #[test]
    fn machine_code_runs_on_later_minors_of_its_major_only() {
        let fits = |sm, cc| arch(sm, Reach::Forward).rank_code(cc).is_some();
        assert!(fits(80, (8, 0)) && fits(80, (8, 6)) && fits(86, (8, 9)));
        assert!(!fits(86, (8, 0)) && !fits(80, (9, 0)) && !fits(90, (8, 0)));
        assert!(fits(100, (10, 3)) && fits(120, (12, 1)) && !fits(100, (12, 0)));
    }

    #[test]
    fn ptx_runs_on_every_later_architecture() {
        let fits = |sm, cc| arch(sm, Reach::Forward).rank_ptx(cc).is_some();
        assert!(fits(50, (8, 0)) && fits(80, (8, 0)) && fits(90, (10, 0)));
        assert!(!fits(86, (8, 0)) && !fits(90, (8, 9)));
    }

    #[test]
    fn specific_code_stays_within_its_family_or_its_architecture() {
        let exact = arch(90, Reach::Exact);
        assert!(exact.rank_code((9, 0)).is_some() && exact.rank_ptx((9, 0)).is_some());
        assert!(exact.rank_ptx((10, 0)).is_none());
        assert!(arch(100, Reach::Exact).rank_code((10, 3)).is_none());
        let family = arch(100, Reach::Family);
        assert!(family.rank_code((10, 3)).is_some() && family.rank_ptx((10, 3)).is_some());
        assert!(family.rank_ptx((12, 0)).is_none());
    }

    #[test]
    fn the_nearest_machine_code_is_preferred() {
        let cc = (8, 6);
        let code = |sm| arch(sm, Reach::Forward).rank_code(cc);
        let ptx = |sm| arch(sm, Reach::Forward).rank_ptx(cc);
        assert!(code(86) > code(80) && code(80) > ptx(86) && ptx(86) > ptx(50) && ptx(50) > None);
        let plain = arch(90, Reach::Forward).rank_code((9, 0));
        assert!(arch(90, Reach::Exact).rank_code((9, 0)) > plain);
    }
}
