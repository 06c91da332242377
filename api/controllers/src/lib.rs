//! What kube-controller-manager does, and the driver that feeds the scheduler core.
