# Purges by cdn-listener (target http-purge, preset "varnish"), for Varnish 6.2 or newer.
# Include it right after "vcl 4.1;", before any other vcl_recv: include "/etc/varnish/cdn-listener.vcl";

import purge;
import std;

acl cdn_listener {      # who may purge: the hosts on which cdn-listener runs
    "127.0.0.1";
    "::1";
}

sub vcl_recv {
    if (req.method == "PURGE" || req.method == "BAN") {
        if (client.ip !~ cdn_listener) {
            return (synth(403, "Not allowed"));
        }
        if (req.method == "PURGE") {
            return (hash);      # to vcl_hit or vcl_miss
        }
        if (!req.http.X-Ban-Prefix) {
            return (synth(400, "X-Ban-Prefix is missing"));
        }
        # Headers of the object, not of the request: the ban lurker can work through these by itself.
        if (std.ban("obj.http.x-cdn-host == " + req.http.host + " && obj.http.x-cdn-url ~ ^" + req.http.X-Ban-Prefix)) {
            return (synth(200, "Banned"));
        }
        return (synth(400, std.ban_error()));
    }
}

sub cdn_listener_purge {
    if (req.http.X-Soft) {
        purge.soft();           # stale from now on; served once more within its grace
    } else {
        purge.hard();
    }
}

sub vcl_hit {
    if (req.method == "PURGE") {
        call cdn_listener_purge;
        return (synth(200, "Purged"));
    }
}

sub vcl_miss {
    if (req.method == "PURGE") {
        call cdn_listener_purge;
        return (synth(200, "Not cached"));
    }
}

sub vcl_backend_response {
    set beresp.http.x-cdn-host = bereq.http.host;
    set beresp.http.x-cdn-url = bereq.url;
}

sub vcl_deliver {
    unset resp.http.x-cdn-host;
    unset resp.http.x-cdn-url;
}
