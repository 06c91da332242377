//! etcd's protobuf messages with their gRPC clients and servers, generated from `proto/`.

/// Users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The descriptors of everything here, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Keys, values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// The services of an etcd endpoint and their messages.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// Locks that the server keeps.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// Elections that the server keeps.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// The standard gRPC health service.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
