// Package api holds the shapes that cross a face of a Quorate node: what the
// HTTP interface, the Go client, the command line and the embedded node all
// speak. It is data only: no behaviour beyond parsing and rendering, no import
// of any other Quorate package.
//
// Lists answer their plural and a next_cursor; times are RFC 3339 in UTC with
// milliseconds; numbers carry their unit in the name; an [Error] is RFC 9457
// problem JSON with layer, code and retry.
package api
