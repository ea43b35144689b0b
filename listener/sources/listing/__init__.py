"""
Storages gone through key by key: what a backfill lists, and what the daemon compares with the index on a schedule.

=========== ======================================================================
module      what it does
=========== ======================================================================
listing     the protocol: keys in byte order, from any key on
tree        the files of a directory
objects     the objects of a bucket
inventory   what a store wrote down about a bucket (Amazon S3, OSS)
keys        keys that somebody names
filtered    only some keys of another listing
spool       keys in any order in, in byte order out; on disk where they are many
answers     ListObjectsV2: bytes in, rows out; pure
bucket      S3 and what speaks like it, through boto3's core
segments    one bucket, many listers, one order
comparing   a listing compared with the index
places      URLs and paths in their parts
settings    what can be set
source      ``type = "listing"``: on a schedule
events      events and a listing of the same storage as one source
=========== ======================================================================
"""

from __future__ import annotations

from listener.sources.listing.comparing import Comparison, Drift
from listener.sources.listing.events import EventsWithReconcile
from listener.sources.listing.filtered import FilteredListing
from listener.sources.listing.inventory import InventoryListing, is_manifest
from listener.sources.listing.keys import KeyList
from listener.sources.listing.listing import Listing
from listener.sources.listing.objects import BucketListing
from listener.sources.listing.settings import ListingSettings
from listener.sources.listing.source import ListingSource, listing_of
from listener.sources.listing.tree import TreeListing

__all__ = [
    "BucketListing",
    "Comparison",
    "Drift",
    "EventsWithReconcile",
    "FilteredListing",
    "InventoryListing",
    "KeyList",
    "Listing",
    "ListingSettings",
    "ListingSource",
    "TreeListing",
    "is_manifest",
    "listing_of",
]
