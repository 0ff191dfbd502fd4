"""A client of the receiver's HTTP API, for programs and notebooks."""

from receiver.client.asynchronous import AsyncClient as AsyncClient
from receiver.client.blocking import Client as Client
from receiver.client.documents import ApiError as ApiError
from receiver.client.documents import Change as Change
from receiver.client.documents import Job as Job
