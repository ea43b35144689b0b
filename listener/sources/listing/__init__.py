"""
Storages listed key by key: what a backfill lists, and what the daemon compares with the index on a schedule.

=========== ======================================================================
module      what it has
=========== ======================================================================
listing     the protocol: keys in byte order, from any key on; filtered, or watched
tree        the files of a directory
bucket      the objects of a bucket of S3 or what speaks like it, through boto3's core
pages       ListObjectsV2: pages read, and many listers in one order
inventory   what a store wrote down about a bucket (Amazon S3, OSS)
keys        keys in any order in, in byte order out; a list of keys
comparing   a listing compared with the index
settings    options, and the parts of a URL
source      ``type = "listing"``, alone or with a source of events
=========== ======================================================================
"""

from __future__ import annotations

from listener.sources.listing.bucket import BucketListing
from listener.sources.listing.comparing import Comparison, Drift
from listener.sources.listing.inventory import InventoryListing, is_manifest
from listener.sources.listing.listing import FilteredListing, Listing
from listener.sources.listing.settings import ListingSettings
from listener.sources.listing.source import EventsWithReconcile, ListingSource, listing_of
from listener.sources.listing.spool import KeyList
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
