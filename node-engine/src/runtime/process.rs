//! What the first process of an instance is: the image's defaults and what the deployment says.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use xylem_types::mqtt::DeployCommand;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The first process, but for what only the unpacked image tells (its users).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub args: Vec<String>,
    /// `K=V`, each key once.
    pub env: Vec<String>,
    pub cwd: PathBuf,
    /// As the image has it, see [`super::user::look_up`].
    pub user: String,
    /// Number of the signal that asks it to end.
    pub stop_signal: i32,
    pub hostname: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    #[error("neither the image nor the deployment says what to run; give a `cmd`")]
    NoCommand,
    #[error("environment entry {0:?} is not of the form K=V")]
    Environment(String),
    #[error("{0:?} has a NUL character")]
    Nul(String),
}

impl Process {
    /// # Errors
    /// When there is nothing to run, or the environment is not one.
    pub fn new(image: &ImageConfiguration, command: &DeployCommand) -> Result<Self, ProcessError> {
        let config = image.config().clone().unwrap_or_default();
        let args = if command.cmd.is_empty() {
            let entrypoint = config.entrypoint().iter().flatten();
            entrypoint.chain(config.cmd().iter().flatten()).cloned().collect()
        } else {
            command.cmd.clone()
        };
        if args.first().is_none_or(String::is_empty) {
            return Err(ProcessError::NoCommand);
        }
        let hostname = format!("instance-{}", command.instance_number);
        let own = format!("HOSTNAME={hostname}");
        let image_env = config.env().iter().flatten().map(String::as_str);
        let given = command.environment.iter().map(String::as_str);
        let all = [DEFAULT_PATH].into_iter().chain(image_env).chain(given).chain([own.as_str()]);
        let env = merge(all)?;
        if let Some(odd) = args.iter().chain(&env).find(|text| text.contains('\0')) {
            return Err(ProcessError::Nul(odd.clone()));
        }
        let cwd = config.working_dir().as_deref().filter(|cwd| cwd.starts_with('/'));
        Ok(Self {
            args,
            env,
            cwd: cwd.unwrap_or("/").into(),
            user: config.user().clone().unwrap_or_default(),
            stop_signal: config.stop_signal().as_deref().and_then(signal).unwrap_or(libc::SIGTERM),
            hostname,
        })
    }
}

/// Each key once, where it first came, with its last value.
fn merge<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Vec<String>, ProcessError> {
    let mut env: Vec<(&str, &str)> = vec![];
    for entry in entries {
        let (key, value) = entry
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| ProcessError::Environment(entry.to_owned()))?;
        match env.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => env.push((key, value)),
        }
    }
    Ok(env.into_iter().map(|(key, value)| format!("{key}={value}")).collect())
}

/// `SIGTERM`, `TERM` or a number.
fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let named = |name: &str| name.parse::<Signal>().ok().map(|signal| signal as i32);
    named(text).or_else(|| named(&format!("SIG{text}")))
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};

    use super::*;

    fn image() -> ImageConfiguration {
        let config = ConfigBuilder::default()
            .entrypoint(vec!["/web".to_owned()])
            .cmd(vec!["--port=80".to_owned()])
            .env(vec!["A=image".to_owned(), "B=image".to_owned()])
            .working_dir("/srv")
            .stop_signal("QUIT")
            .user("web")
            .build()
            .unwrap();
        ImageConfigurationBuilder::default()
            .config(config)
            .architecture("amd64")
            .os("linux")
            .rootfs(oci_spec::image::RootFs::default())
            .build()
            .unwrap()
    }

    fn command() -> DeployCommand {
        serde_json::from_str(
            r#"{"job_name":"a.b.c.d","instance_number":3,"virtualization":"docker","image":"x"}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_image_says_what_runs_unless_the_deployment_does() {
        let process = Process::new(&image(), &command()).unwrap();
        assert_eq!(process.args, ["/web", "--port=80"]);
        assert_eq!((process.cwd.to_str(), process.user.as_str()), (Some("/srv"), "web"));
        assert_eq!(process.stop_signal, libc::SIGQUIT);
        assert_eq!(process.hostname, "instance-3");

        let command = DeployCommand { cmd: vec!["/other".into()], ..command() };
        assert_eq!(Process::new(&image(), &command).unwrap().args, ["/other"]);
    }

    #[test]
    fn the_deployments_environment_goes_over_the_images() {
        let environment = vec!["B=mine".into(), "C=x=y".into(), "HOSTNAME=lie".into()];
        let process = Process::new(&image(), &DeployCommand { environment, ..command() }).unwrap();
        assert_eq!(
            process.env,
            [DEFAULT_PATH, "A=image", "B=mine", "C=x=y", "HOSTNAME=instance-3"]
        );
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let refused = |command: DeployCommand| Process::new(&image(), &command).unwrap_err();
        let environment = vec!["novalue".to_owned()];
        assert_eq!(
            refused(DeployCommand { environment, ..command() }),
            ProcessError::Environment("novalue".into())
        );
        let cmd = vec!["/web".to_owned(), "a\0b".to_owned()];
        assert_eq!(refused(DeployCommand { cmd, ..command() }), ProcessError::Nul("a\0b".into()));
        let empty = ImageConfiguration::default();
        assert_eq!(Process::new(&empty, &command()).unwrap_err(), ProcessError::NoCommand);
    }
}
