output "bucket" {
  description = "For RECEIVER_ARCHIVE and LEDGER_BUCKET."
  value       = aws_s3_bucket.archive.bucket
}

output "instance_profile" {
  description = "Give it to the machine. Containers reach its credentials only with a hop limit of 2."
  value       = aws_iam_instance_profile.receiver.name
}

output "policy_arn" {
  description = "For a user of a machine that stands elsewhere."
  value       = aws_iam_policy.receiver.arn
}
