//! `xylem app …`: applications, as SLAs describe them.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use xylem_types::{job::Job, rest::Application, sla::Sla};

use crate::{
    client::Client,
    confirm::Confirmation,
    failure::Usage,
    output::{self, Format},
    service::{
        self,
        deploy::{DeployArgs, deploy_all},
    },
    table::{Facts, Table},
};

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Your applications
    #[command(visible_alias = "ls")]
    List,
    /// Creates the applications of an SLA and their services
    Create(CreateArgs),
    /// An application and its services
    Show(ShowArgs),
    /// Deletes an application, its services and all their instances
    Delete(DeleteArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem app create shop.json
  xylem app create shop.json --deploy --wait
  generate-sla | xylem app create -")]
pub(crate) struct CreateArgs {
    /// SLA v2.0 in JSON; `-` is stdin
    file: PathBuf,
    /// Start an instance of each service too
    #[arg(long)]
    deploy: bool,
    #[command(flatten)]
    deployment: DeployArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Id, name, or name.namespace
    app: String,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Id, name, or name.namespace
    app: String,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// # Errors
/// When the root cannot be reached or refuses, the file is unreadable, or the writer fails.
pub(crate) async fn run(
    mut client: Client,
    command: AppCommand,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match command {
        AppCommand::List => Ok(render(out, format, &list(&mut client).await?)?),
        AppCommand::Create(args) => create(client, args, format, out).await,
        AppCommand::Show(args) => {
            let app = find(&mut client, &args.app).await?;
            let services = services_of(&mut client, &app).await?;
            Ok(render_one(out, format, &app, &services)?)
        }
        AppCommand::Delete(args) => delete(client, args).await,
    }
}

async fn list(client: &mut Client) -> anyhow::Result<Vec<Application>> {
    let mut apps: Vec<Application> = client.get(&["api", "applications", ""]).await?;
    apps.sort_by(|a, b| name(a).cmp(&name(b)));
    Ok(apps)
}

fn name(app: &Application) -> (&str, &str) {
    (&app.application_name, &app.application_namespace)
}

/// The application that `wanted` means.
pub(crate) async fn find(client: &mut Client, wanted: &str) -> anyhow::Result<Application> {
    pick(list(client).await?, wanted)
}

fn pick(apps: Vec<Application>, wanted: &str) -> anyhow::Result<Application> {
    let full_name =
        |app: &Application| format!("{}.{}", app.application_name, app.application_namespace);
    let mut matching: Vec<_> = apps
        .into_iter()
        .filter(|app| {
            app.id == wanted || app.application_name == wanted || full_name(app) == wanted
        })
        .collect();
    match matching.len() {
        0 => bail!("there is no application {wanted:?}; `xylem app list` shows what there is"),
        1 => Ok(matching.remove(0)),
        _ => {
            let names: Vec<_> = matching.iter().map(full_name).collect();
            bail!("{wanted:?} is the name of several applications: {}", names.join(", "))
        }
    }
}

async fn services_of(client: &mut Client, app: &Application) -> anyhow::Result<Vec<Job>> {
    let mut services: Vec<Job> = client.get(&["api", "services", &app.id]).await?;
    services.sort_by(|a, b| a.job_name.cmp(&b.job_name));
    Ok(services)
}

async fn create(
    mut client: Client,
    args: CreateArgs,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if args.deployment.is_given() && !args.deploy {
        return Err(Usage("--wait, --timeout and --instances need --deploy".to_owned()).into());
    }
    let sla = read(&args.file)?;
    let all: Vec<Application> = client.post(&["api", "application", ""], Some(sla.clone())).await?;
    let created = created_by(&sla, all);
    if !args.deploy {
        return Ok(render(out, format, &created)?);
    }
    let mut services = Vec::new();
    for app in &created {
        services.extend(services_of(&mut client, app).await?);
    }
    deploy_all(&mut client, &services, &args.deployment, format, out).await
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut sla = Vec::new();
        io::stdin().lock().read_to_end(&mut sla).context("cannot read the SLA from stdin")?;
        return Ok(sla);
    }
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The root answers with all of the user's applications; these are those of the SLA.
fn created_by(sla: &[u8], all: Vec<Application>) -> Vec<Application> {
    // The root accepted it. If it is newer and we cannot read what it can, all are shown.
    let Ok(sla) = Sla::parse(sla) else { return all };
    all.into_iter()
        .filter(|app| {
            sla.applications.iter().any(|wanted| {
                (wanted.application_name.as_str(), wanted.application_namespace.as_str())
                    == name(app)
            })
        })
        .collect()
}

async fn delete(mut client: Client, args: DeleteArgs) -> anyhow::Result<()> {
    let app = find(&mut client, &args.app).await?;
    let question = format!(
        "delete application {}.{} and its {} service(s)?",
        app.application_name,
        app.application_namespace,
        app.microservices.len()
    );
    if !args.confirmation.ask(&question)? {
        bail!("not deleted");
    }
    client.delete(&["api", "application", &app.id]).await?;
    writeln!(io::stderr(), "application {} is deleted", app.id)?;
    Ok(())
}

fn render(out: &mut impl Write, format: Format, apps: &[Application]) -> io::Result<()> {
    output::list(out, format, apps, |apps| {
        let mut table =
            Table::new(["ID", "NAME", "NAMESPACE", "SERVICES", "DESCRIPTION"]).right_aligned(&[3]);
        for app in apps {
            table.row([
                app.id.clone(),
                app.application_name.clone(),
                app.application_namespace.clone(),
                app.microservices.len().to_string(),
                app.application_desc.clone(),
            ]);
        }
        table
    })
}

fn render_one(
    out: &mut impl Write,
    format: Format,
    app: &Application,
    services: &[Job],
) -> io::Result<()> {
    if format == Format::Json {
        return output::json(out, app);
    }
    let mut facts = Facts::default();
    facts
        .add("id", app.id.as_str())
        .add("name", app.application_name.as_str())
        .add("namespace", app.application_namespace.as_str())
        .add("description", app.application_desc.as_str());
    facts.write_to(out)?;
    writeln!(out)?;
    service::list::render(out, format, services)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(id: &str, name: &str, namespace: &str) -> Application {
        Application {
            id: id.into(),
            application_id: id.into(),
            application_name: name.into(),
            application_namespace: namespace.into(),
            application_desc: "sells things".into(),
            microservices: vec!["s1".into(), "s2".into()],
            user_id: "u".into(),
        }
    }

    #[test]
    fn the_table_lists_applications() {
        let mut out = Vec::new();
        render(&mut out, Format::Table, &[app("a1", "shop", "prod")]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
ID   NAME   NAMESPACE   SERVICES   DESCRIPTION
a1   shop   prod               2   sells things
"
        );
    }

    #[test]
    fn json_is_the_type_as_it_is() {
        let apps = vec![app("a1", "shop", "prod")];
        let mut out = Vec::new();
        render(&mut out, Format::Json, &apps).unwrap();
        assert_eq!(serde_json::from_slice::<Vec<Application>>(&out).unwrap(), apps);
    }

    #[test]
    fn an_application_is_found_by_id_and_by_name_where_that_is_unique() {
        let apps = || vec![app("a1", "shop", "prod"), app("a2", "shop", "test")];
        assert_eq!(pick(apps(), "a2").unwrap().id, "a2");
        assert_eq!(pick(apps(), "shop.prod").unwrap().id, "a1");
        let ambiguous = pick(apps(), "shop").unwrap_err().to_string();
        assert!(ambiguous.contains("shop.prod, shop.test"), "{ambiguous}");
        assert!(pick(apps(), "bakery").unwrap_err().to_string().contains("xylem app list"));
    }

    #[test]
    fn only_the_applications_of_the_sla_are_shown_as_created() {
        let sla = br#"{"sla_version": "v2.0", "customerID": "Admin", "applications": [
            {"application_name": "shop", "application_namespace": "test", "microservices": []}]}"#;
        let all = vec![app("a1", "shop", "prod"), app("a2", "shop", "test")];
        let created = created_by(sla, all);
        assert_eq!(created.len(), 1);
        assert_eq!(created[0].id, "a2");
    }
}
