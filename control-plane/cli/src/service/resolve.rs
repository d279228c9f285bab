//! Which service a person means.

use anyhow::bail;
use xylem_types::job::Job;

use crate::client::Client;

/// All services that the user may see, by name.
///
/// # Errors
/// When the root cannot be reached or refuses.
pub(super) async fn all(client: &mut Client) -> anyhow::Result<Vec<Job>> {
    let mut services: Vec<Job> = client.get(&["api", "services", ""]).await?;
    services.sort_by(|a, b| a.job_name.cmp(&b.job_name));
    Ok(services)
}

/// The service that `wanted` means, by id, full name or unique service name.
///
/// # Errors
/// When there is none or several, or the root cannot be reached or refuses.
pub(super) async fn find(client: &mut Client, wanted: &str) -> anyhow::Result<Job> {
    pick(all(client).await?, wanted)
}

/// The service as it is now.
///
/// # Errors
/// When the root cannot be reached or refuses.
pub(super) async fn get(client: &mut Client, id: &str) -> Result<Job, crate::client::ClientError> {
    client.get(&["api", "service", id]).await
}

fn pick(services: Vec<Job>, wanted: &str) -> anyhow::Result<Job> {
    let exactly = |job: &Job| job.id == wanted || job.job_name == wanted;
    if let Some(position) = services.iter().position(exactly) {
        return Ok(services.into_iter().nth(position).expect("a position is in the list"));
    }
    let mut named: Vec<_> = services.into_iter().filter(|job| job.service_name == wanted).collect();
    match named.len() {
        0 => bail!("there is no service {wanted:?}; `xylem service list` shows what there is"),
        1 => Ok(named.remove(0)),
        _ => {
            let names: Vec<_> = named.iter().map(|job| job.job_name.as_str()).collect();
            bail!("{wanted:?} is the name of several services: {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::instances::samples::job, *};

    #[test]
    fn a_service_is_found_by_id_full_name_and_unique_short_name() {
        let services = || {
            vec![
                job("1", "shop.prod.web.a"),
                job("2", "shop.test.web.a"),
                job("3", "shop.prod.db.a"),
            ]
        };
        assert_eq!(pick(services(), "2").unwrap().id, "2");
        assert_eq!(pick(services(), "shop.test.web.a").unwrap().id, "2");
        assert_eq!(pick(services(), "db").unwrap().id, "3");
        let ambiguous = pick(services(), "web").unwrap_err().to_string();
        assert!(ambiguous.ends_with("shop.prod.web.a, shop.test.web.a"), "{ambiguous}");
        assert!(pick(services(), "cache").unwrap_err().to_string().contains("service list"));
    }
}
