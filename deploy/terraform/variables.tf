variable "bucket" {
  description = "Name of the bucket that is made: images and the ledger's copy lie in it."
  type        = string
}

variable "images" {
  description = "What the images' keys begin with: the part of RECEIVER_ARCHIVE after the bucket."
  type        = string
  default     = "upscaled"
}

variable "ledger" {
  description = "What the keys of the ledger's copy begin with: LEDGER_PATH."
  type        = string
  default     = "ledger"
}

variable "name" {
  description = "Name of the role and of the instance profile."
  type        = string
  default     = "upscale-receiver"
}

variable "keep_deleted_days" {
  description = "For how many days an object that was deleted or replaced can be had back."
  type        = number
  default     = 30
}

variable "infrequent_after_days" {
  description = "After how many days images move to S3 Standard-IA, which is cheaper to keep; 0: never. At least 30."
  type        = number
  default     = 0
}
