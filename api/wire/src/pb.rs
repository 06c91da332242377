//! etcd's protobuf messages with their gRPC clients and servers, generated from `proto/`.

/// Users, roles and permissions.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// Keys, values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// The services of an etcd endpoint and their messages.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// The standard gRPC health service.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
