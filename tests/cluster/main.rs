//! The whole platform: what a person who deploys applications sees, and what is left behind.
//!
//! One platform with three workers is started for all trials, which run one after the other in
//! this order; those that end daemons come last.

#![expect(unreachable_pub, reason = "a test binary exports nothing")]

mod drain;
mod failures;
mod lifecycle;
mod recovery;
mod refusals;
mod scene;

use std::process::ExitCode;

use scene::Scene;
use xylem_tests::suite::{self, Check};

const TRIALS: [Check<Scene>; 15] = [
    ("an_application_is_deployed_scaled_and_removed", lifecycle::deployed_scaled_and_removed),
    ("a_one_shot_instance_completes", lifecycle::one_shot),
    ("an_invalid_descriptor_is_refused_field_by_field", refusals::invalid_descriptor),
    ("a_taken_or_foreign_service_ip_is_refused", refusals::service_ips),
    ("what_does_not_exist_is_not_found", refusals::not_found),
    ("an_unknown_image_fails_with_the_cause", failures::unknown_image),
    ("an_unreachable_registry_fails_with_the_cause", failures::unreachable_registry),
    ("a_missing_layer_fails_with_the_cause", failures::missing_layer),
    ("a_full_subnet_fails_with_the_cause", failures::full_subnet),
    ("a_worker_is_drained_and_nobody_notices", drain::worker_drained),
    ("an_instance_that_dies_is_started_again", recovery::instance_dies),
    ("a_node_engine_may_die", recovery::node_engine_dies),
    ("the_root_may_die", recovery::root_dies),
    ("the_cluster_may_die", recovery::cluster_dies),
    ("a_lost_worker_is_replaced_and_its_duplicate_removed", recovery::worker_lost),
];

fn main() -> ExitCode {
    suite::main(&TRIALS)
}
