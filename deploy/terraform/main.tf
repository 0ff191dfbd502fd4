# A private bucket that keeps what is deleted from it, and a role that can do what the receiver and Litestream do,
# and nothing more.

resource "aws_s3_bucket" "archive" {
  bucket = var.bucket
}

# No object is public, whatever a policy or an ACL says.
resource "aws_s3_bucket_public_access_block" "archive" {
  bucket                  = aws_s3_bucket.archive.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# No ACLs at all: who owns the bucket owns its objects.
resource "aws_s3_bucket_ownership_controls" "archive" {
  bucket = aws_s3_bucket.archive.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# The receiver deletes nothing. Whoever does by mistake can take it back.
resource "aws_s3_bucket_versioning" "archive" {
  bucket = aws_s3_bucket.archive.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "archive" {
  bucket = aws_s3_bucket.archive.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "archive" {
  bucket     = aws_s3_bucket.archive.id
  depends_on = [aws_s3_bucket_versioning.archive]

  rule {
    id     = "forget-what-was-deleted"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.keep_deleted_days
    }
    expiration {
      expired_object_delete_marker = true
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  # What the receiver's probe wrote at a start and could not remove.
  rule {
    id     = "probes"
    status = "Enabled"
    filter {
      prefix = "${var.images}/.receiver-probe/"
    }
    expiration {
      days = 1
    }
  }

  rule {
    id     = "images-to-standard-ia"
    status = var.infrequent_after_days > 0 ? "Enabled" : "Disabled"
    filter {
      prefix = "${var.images}/"
    }
    transition {
      days          = max(var.infrequent_after_days, 30)
      storage_class = "STANDARD_IA"
    }
  }
}

# Nothing unencrypted on the way.
resource "aws_s3_bucket_policy" "archive" {
  bucket     = aws_s3_bucket.archive.id
  depends_on = [aws_s3_bucket_public_access_block.archive]
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyOverTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.archive.arn, "${aws_s3_bucket.archive.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

# The rights. The document stands in a file of its own, for those who use it without Terraform, and for a test that
# holds it against what the program asks of a store.
resource "aws_iam_policy" "receiver" {
  name = var.name
  policy = templatefile("${path.module}/policy.json.tftpl", {
    bucket_arn = aws_s3_bucket.archive.arn
    images     = var.images
    ledger     = var.ledger
  })
}

# The role of the machine, so that no key has to lie on it.
resource "aws_iam_role" "receiver" {
  name = var.name
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ec2.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy_attachment" "receiver" {
  role       = aws_iam_role.receiver.name
  policy_arn = aws_iam_policy.receiver.arn
}

resource "aws_iam_instance_profile" "receiver" {
  name = var.name
  role = aws_iam_role.receiver.name
}
