"""The archive in S3 and in stores with the same API. No other package imports boto3."""
