# Directories by surrogate key (target http-purge, subtree = "xkey"); needs the package varnish-modules.
# Include it after varnish.vcl: include "/etc/varnish/cdn-listener-xkey.vcl";
# Each object gets the host and path of the eight directories above it as keys, unless the origin sent keys.

import xkey;

sub vcl_recv {
    if (req.method == "PURGEKEYS") {
        if (client.ip !~ cdn_listener) {
            return (synth(403, "Not allowed"));
        }
        if (!req.http.xkey) {
            return (synth(400, "xkey is missing"));
        }
        if (req.http.X-Soft) {
            set req.http.x-purged = xkey.softpurge(req.http.xkey);
        } else {
            set req.http.x-purged = xkey.purge(req.http.xkey);
        }
        return (synth(200, "Purged " + req.http.x-purged));
    }
}

sub vcl_backend_response {
    if (!beresp.http.xkey) {
        set beresp.http.xkey = bereq.http.host + "/";
        if (bereq.url ~ "^(/[^/?]+){1}/") { set beresp.http.xkey = beresp.http.xkey + " " + bereq.http.host + regsub(bereq.url, "^((/[^/?]+){1}/).*$", "\1"); }
        if (bereq.url ~ "^(/[^/?]+){2}/") { set beresp.http.xkey = beresp.http.xkey + " " + bereq.http.host + regsub(bereq.url, "^((/[^/?]+){2}/).*$", "\1"); }
        if (bereq.url ~ "^(/[^/?]+){3}/") { set beresp.http.xkey = beresp.http.xkey + " " + bereq.http.host + regsub(bereq.url, "^((/[^/?]+){3}/).*$", "\1"); }
        if (bereq.url ~ "^(/[^/?]+){4}/") { set beresp.http.xkey = beresp.http.xkey + " " + bereq.http.host + regsub(bereq.url, "^((/[^/?]+){4}/).*$", "\1"); }
        if (bereq.url ~ "^(/[^/?]+){5}/") { set beresp.http.xkey = beresp.http.xkey + " " + bereq.http.host + regsub(bereq.url, "^((/[^/?]+){5}/).*$", "\1"); }
        if (bereq.url ~ "^(/[^/?]+){6}/") { set beresp.http.xkey = beresp.http.xkey + " " + bereq.http.host + regsub(bereq.url, "^((/[^/?]+){6}/).*$", "\1"); }
        if (bereq.url ~ "^(/[^/?]+){7}/") { set beresp.http.xkey = beresp.http.xkey + " " + bereq.http.host + regsub(bereq.url, "^((/[^/?]+){7}/).*$", "\1"); }
    }
}
