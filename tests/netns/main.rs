//! Two nodes, real daemons, real containers, real sockets: what a client in an instance sees.
//!
//! One platform is started for all trials, which run one after the other in this order; those
//! that end daemons come last.
#![expect(unreachable_pub, reason = "a test binary exports nothing")]

mod daemons;
mod damage;
mod failover;
mod faults;
mod first_packet;
mod ipv6;
mod operations;
mod outside;
mod path;
mod path_mtu;
mod scene;
mod socket;
mod traffic;
mod watch;

use std::process::ExitCode;

use scene::Scene;
use xylem_tests::suite::{self, Check};

const TRIALS: [Check<Scene>; 45] = [
    ("tcp_stream_same_node", |scene| traffic::tcp_stream(scene, scene.near.rr_ip)),
    ("tcp_stream_across_nodes", |scene| traffic::tcp_stream(scene, scene.far.rr_ip)),
    ("tcp_requests", traffic::tcp_requests),
    ("udp_datagrams_of_every_size", traffic::udp_datagrams),
    ("ping", traffic::ping),
    ("ipv6_on_one_node_and_across", ipv6::tcp_and_udp),
    ("a_burst_of_connections_spreads_evenly", traffic::even_spread),
    ("an_instance_dials_its_own_service", traffic::self_dial),
    ("corrupted_tunnel_packets_do_not_arrive", traffic::corrupted),
    ("first_packet_is_not_lost", first_packet::not_lost),
    ("unknown_address_is_refused_with_a_reason", first_packet::unknown_address),
    ("operator_is_told_where_a_connection_will_go", operations::explain_agrees),
    ("operator_sees_a_connection_come_and_go", operations::connection_is_seen),
    ("operator_sees_healthy_nodes", operations::doctor_and_nodes),
    ("transfer_over_a_bad_line_arrives_unharmed", faults::bad_line),
    ("transfer_over_a_corrupting_line_arrives_unharmed", faults::corrupted_stream),
    ("corrupted_datagrams_are_not_delivered", faults::corrupted_datagrams),
    ("copies_made_by_the_line_are_not_multiplied", faults::copies),
    ("connections_copied_by_the_line_spread_evenly", faults::copies_of_connections),
    ("requests_take_as_long_as_the_line_and_no_longer", faults::delay),
    ("connection_survives_a_cut", faults::cut),
    ("cut_of_one_direction_leaves_the_other", faults::cut_one_direction),
    ("damaged_answer_takes_no_port_of_a_client", damage::port_stays_free),
    ("damaged_reset_ends_no_flow", damage::reset_ends_nothing),
    ("node_that_is_cut_off_gets_no_new_flows", failover::cut),
    ("node_that_gets_nothing_gets_no_new_flows", failover::cut_forth),
    ("node_whose_answers_are_lost_gets_no_new_flows", failover::cut_back),
    ("node_that_comes_and_goes_is_kept_out_for_longer_each_time", failover::flapping),
    ("streams_learn_the_mtu_of_the_underlay", path_mtu::streams),
    ("datagrams_learn_the_mtu_of_the_underlay", path_mtu::datagrams),
    ("clients_outside_reach_published_ports", outside::published),
    ("instances_talk_to_the_outside_where_they_may", outside::masquerade),
    ("a_gigabyte_crosses_the_kernel_alone", path::gigabyte),
    ("unused_service_is_forgotten_and_found_again", first_packet::forgotten_and_found_again),
    ("sockets_are_not_joined_unless_asked_for", socket::off_by_default),
    ("joined_sockets_carry_streams_unharmed", socket::streams),
    ("joined_sockets_are_read_to_the_end", socket::late_reader),
    ("joined_sockets_of_short_connections", socket::short_connections),
    ("joined_sockets_hold_a_bounded_number_of_bytes", socket::slow_reader),
    ("joined_sockets_end_with_their_process", socket::killed),
    ("joined_sockets_need_no_net_manager", socket::without_net_manager),
    ("joined_sockets_end_with_their_instance", socket::instance_removed),
    ("sockets_with_anothers_address_are_not_joined", socket::anothers_address),
    ("nodes_reach_one_another_over_ipv6", ipv6::underlay),
    ("net_managers_may_die", daemons::net_managers_may_die),
];

fn main() -> ExitCode {
    suite::main(&TRIALS)
}
