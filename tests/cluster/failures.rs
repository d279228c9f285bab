//! Instances that cannot run end FAILED, with the cause where people look for it.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use xylem_tests::{
    deployment::{Service, Wanted, scale_up},
    wait::wait_for,
};
use xylem_types::{instance::InstanceStatus, job::JobInstance};

use crate::scene::{LIMIT, Scene};

/// Addresses in a /26 that an instance can have at most.
const SUBNET: u32 = 62;

pub fn unknown_image(scene: &Scene) -> Result<()> {
    let image = scene.image.replace("demo-app:1", "nothing:7");
    fails_with(scene, Wanted { image: &image, ..scene.serving("unknown") }, &["nothing"])
}

pub fn unreachable_registry(scene: &Scene) -> Result<()> {
    // Nobody listens on this port of the hub.
    let image = scene.image.replace(":5000/", ":5999/");
    fails_with(scene, Wanted { image: &image, ..scene.serving("unreachable") }, &[":5999"])
}

/// A registry that has the manifest but not the layer.
pub fn missing_layer(scene: &Scene) -> Result<()> {
    let image = {
        let platform = scene.platform();
        let folder = platform.folder().to_owned();
        let program = folder.join("only-here");
        // A program of its own, so that its layer is nobody else's.
        fs::write(&program, b"#!/no/such/interpreter\n").context("cannot write")?;
        let image = xylem_tests::image::Image::of_binary("only-here", &program)?;
        let hub = &platform.topology.hub.netns;
        let reference = platform.registry.add(hub, "only-here", "1", &image)?;
        let layer = image.layer_digest();
        let blob = layer.strip_prefix("sha256:").context("not a SHA-256")?;
        let blobs = folder.join("registry/images/docker/registry/v2/blobs/sha256");
        let blob = blobs.join(&blob[..2]).join(blob);
        ensure!(Path::new(&blob).is_dir(), "{} is not there", blob.display());
        fs::remove_dir_all(&blob).context("cannot remove the layer")?;
        reference
    };
    fails_with(scene, Wanted { image: &image, ..scene.serving("layerless") }, &["blob sha256:"])
}

pub fn full_subnet(scene: &Scene) -> Result<()> {
    let wanted = Wanted { node: Some("worker1"), ..scene.serving("many") };
    scene.with_service(wanted, 0, |service| {
        // Some addresses of the range may be reserved: fill it until one is refused.
        let mut running = 0;
        let refused = loop {
            let number = scene.with_rest(|rest| rest.add_instance(&service.id))?;
            let instance = settled(scene, service, number)?;
            match instance.status {
                InstanceStatus::Running => running += 1,
                _ => break instance,
            }
            ensure!(running <= SUBNET, "{running} instances in a subnet of {SUBNET} addresses");
        };
        ensure!(running >= SUBNET - 4, "only {running} instances fit: {refused:?}");
        ensure!(refused.status == InstanceStatus::Failed, "{refused:?}");
        ensure!(refused.status_detail.contains("subnet"), "no cause: {refused:?}");

        // With one address free again, one more fits.
        scene.with_rest(|rest| rest.remove_instance(&service.id, refused.instance_number))?;
        scene.with_rest(|rest| rest.remove_instance(&service.id, 0))?;
        wait_for("an address to be free", LIMIT, || {
            let list = scene.with_rest(|rest| rest.service(&service.id))?.instance_list;
            ensure!(list.len() == running as usize - 1, "{} instances", list.len());
            Ok(())
        })?;
        scene.with_rest(|rest| scale_up(rest, service, 1)).map(drop)
    })
}

/// Waits until the instance runs or has failed.
fn settled(scene: &Scene, service: &Service, number: u32) -> Result<JobInstance> {
    wait_for(&format!("instance {number} to settle"), LIMIT, || {
        let list = scene.with_rest(|rest| rest.service(&service.id))?.instance_list;
        let instance = list.into_iter().find(|i| i.instance_number == number).context("gone")?;
        match instance.status {
            InstanceStatus::Running | InstanceStatus::Failed => Ok(instance),
            _ => bail!("{instance:?}"),
        }
    })
}

fn fails_with(scene: &Scene, wanted: Wanted<'_>, words: &[&str]) -> Result<()> {
    scene.with_service(wanted, 0, |service| {
        let number = scene.with_rest(|rest| rest.add_instance(&service.id))?;
        let instance = settled(scene, service, number)?;
        ensure!(instance.status == InstanceStatus::Failed, "{instance:?}");
        for word in words {
            ensure!(instance.status_detail.contains(word), "no {word:?} in: {instance:?}");
        }
        Ok(())
    })
}
