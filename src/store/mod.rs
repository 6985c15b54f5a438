//! Finished artifacts: memory, disk or S3.
