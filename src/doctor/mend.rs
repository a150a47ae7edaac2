//! The commands that mend things, in the words of the distribution at hand.
//!
//! Kernel arguments and packages are named differently everywhere. A command
//! is given only where it is known; otherwise a comment says what to install.

use super::root::Root;

/// Families of distributions that share their commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Debian,
    Fedora,
    Suse,
    Other,
}

/// Builds commands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mend {
    family: Family,
}

impl Mend {
    pub(super) fn of(root: &Root) -> Mend {
        let text = root.read("etc/os-release").unwrap_or_default();
        let mut words = text
            .lines()
            .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
            .flat_map(|value| value.trim_matches('"').split_whitespace());
        let family = words.find_map(|word| match word {
            "debian" | "ubuntu" => Some(Family::Debian),
            "fedora" | "rhel" | "centos" => Some(Family::Fedora),
            "suse" | "opensuse" | "sles" => Some(Family::Suse),
            _ => None,
        });
        Mend { family: family.unwrap_or(Family::Other) }
    }

    /// Adds an argument to the kernel's command line and boots with it.
    pub(super) fn boot_with(self, argument: &str) -> String {
        match self.family {
            Family::Fedora => {
                format!("sudo grubby --update-kernel=ALL --args=\"{argument}\"\nsudo reboot")
            }
            Family::Debian | Family::Suse | Family::Other => {
                let update = match self.family {
                    Family::Debian => "sudo update-grub",
                    _ => "sudo grub2-mkconfig -o /boot/grub2/grub.cfg",
                };
                format!(
                    "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{argument} /' /etc/default/grub\n\
                     {update}\nsudo reboot"
                )
            }
        }
    }

    /// Installs libaccel-config and the `accel-config` command.
    pub(super) fn accel_config(self) -> String {
        match self.family {
            Family::Debian => "sudo apt install libaccel-config1 accel-config",
            Family::Fedora => "sudo dnf install accel-config",
            Family::Suse => "sudo zypper install accel-config",
            Family::Other => {
                "# install accel-config 4.0 or newer: https://github.com/intel/idxd-config"
            }
        }
        .into()
    }

    /// Installs a current libqpl.
    pub(super) fn libqpl(self) -> String {
        let build = "git clone --recursive https://github.com/intel/qpl\n\
                     cmake -S qpl -B qpl/build -DCMAKE_BUILD_TYPE=Release \
                     -DQPL_LIBRARY_TYPE=SHARED -DQPL_BUILD_TESTS=OFF -DQPL_BUILD_EXAMPLES=OFF\n\
                     cmake --build qpl/build\n\
                     sudo cmake --install qpl/build && sudo ldconfig";
        match self.family {
            Family::Debian => format!(
                "sudo apt install libqpl1\n# or, on releases without that package:\n{build}"
            ),
            _ => build.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(os_release: &str) -> Family {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/os-release"), os_release).unwrap();
        Mend::of(&Root::at(dir.path())).family
    }

    #[test]
    fn distributions_are_known_by_their_kin() {
        assert_eq!(family("NAME=x\nID=debian\n"), Family::Debian);
        assert_eq!(family("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), Family::Debian);
        assert_eq!(family("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), Family::Fedora);
        assert_eq!(family("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n"), Family::Suse);
        assert_eq!(family("ID=arch\n"), Family::Other);
    }
}
