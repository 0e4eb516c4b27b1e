//! The first process of a machine image (format `vm`): loads drivers, mounts the root, brings the network up, runs the model server, ends the machine.
