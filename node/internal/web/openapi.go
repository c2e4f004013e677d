package web

import (
	"cmp"
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/quorate/quorate/node/api"
)

// openAPI describes the operations, from the table and the types' tags: json
// names fields, doc describes them, enum lists their words.
func openAPI(ops []operation) []byte {
	schemas := map[string]any{}
	problem := map[string]any{"description": "Problem (RFC 9457) with layer, code and retry",
		"content": map[string]any{"application/problem+json": map[string]any{"schema": schemaOf(reflect.TypeFor[api.Error](), schemas)}}}
	for _, t := range []reflect.Type{reflect.TypeFor[api.Hook](), reflect.TypeFor[api.Approval](), reflect.TypeFor[api.Compliance]()} {
		schemaOf(t, schemas) // fields that take any JSON in the first place, and these in fact
	}
	paths := map[string]map[string]any{}
	for _, o := range ops {
		if strings.HasPrefix(o.doc, notSupported) {
			continue
		}
		op := map[string]any{"operationId": o.name, "summary": o.doc, "responses": map[string]any{"4XX": problem, "default": problem}}
		if o.out != nil {
			op["responses"].(map[string]any)["200"] = map[string]any{"description": "Done",
				"content": map[string]any{"application/json": map[string]any{"schema": schemaOf(reflect.TypeOf(o.out), schemas)}}}
		}
		if m, ok := media[o.name]; ok {
			content := map[string]any{"schema": map[string]any{"type": "string"}}
			if o.out != nil { // of each line
				content = map[string]any{"schema": schemaOf(reflect.TypeOf(o.out), schemas)}
			}
			op["responses"].(map[string]any)["200"] = map[string]any{"description": "A stream, or a text", "content": map[string]any{m: content}}
		}
		if o.out == nil && o.method == "DELETE" {
			op["responses"].(map[string]any)["204"] = map[string]any{"description": "Done"}
		}
		if o.in != nil {
			body := schemaOf(reflect.TypeOf(o.in), schemas)
			content := map[string]any{"application/json": map[string]any{"schema": body}}
			if o.size == lines { // one, an array, or a line each
				content["application/json"] = map[string]any{"schema": map[string]any{"oneOf": []any{body, map[string]any{"type": "array", "maxItems": api.MaxBatch, "items": body}}}}
				content["application/x-ndjson"] = map[string]any{"schema": body}
				op["responses"].(map[string]any)["201"] = map[string]any{"description": "One task, new",
					"content": map[string]any{"application/json": map[string]any{"schema": schemaOf(reflect.TypeFor[api.SubmitVerdict](), schemas)}}}
			}
			op["requestBody"] = map[string]any{"content": content}
		}
		if params := parametersOf(o, op); params != nil {
			op["parameters"] = params
		}
		if paths[o.path] == nil {
			paths[o.path] = map[string]any{}
		}
		paths[o.path][strings.ToLower(o.method)] = op
	}
	b, err := json.MarshalIndent(map[string]any{
		"openapi": "3.1.0",
		"info": map[string]any{"title": "Quorate", "version": "1", "description": "Coordination for fleets of AI agents.",
			"license": map[string]any{"name": "Apache 2.0", "identifier": "Apache-2.0"}},
		"security":   []any{}, // there is none yet: nodes listen on loopback
		"servers":    []any{map[string]any{"url": "http://127.0.0.1:7700"}},
		"paths":      paths,
		"components": map[string]any{"schemas": schemas},
	}, "", " ")
	if err != nil {
		panic("web: openapi: " + err.Error()) // maps and strings only
	}
	return b
}

var inPath = regexp.MustCompile(`\{(\w+)\}`)

// parametersOf are an operation's, in its path and behind it.
func parametersOf(o operation, op map[string]any) (params []any) {
	for _, m := range inPath.FindAllStringSubmatch(o.path, -1) {
		params = append(params, map[string]any{"name": m[1], "in": "path", "required": true, "schema": map[string]any{"type": "string"}})
	}
	for _, q := range o.query {
		if q == consistency {
			params = append(params, consistencyParameter)
			op["responses"].(map[string]any)["200"].(map[string]any)["headers"] = consistencyHeader
			continue
		}
		kind := cmp.Or(queryKinds[q], "string")
		params = append(params, map[string]any{"name": q, "in": "query", "schema": map[string]any{"type": kind}})
	}
	return params
}

// queryKinds are parameters that are not just words.
var queryKinds = map[string]string{"limit": "integer", "shard": "integer", "seq": "integer", "from_size": "integer", "rollback_failed": "boolean"}

// media are the answers that are not one JSON value.
var media = map[string]string{
	"session": "application/x-ndjson", "export_records": "application/x-ndjson", "events": "text/event-stream",
	"audit_checkpoint": "text/plain", "audit_keys": "text/plain", "audit_proof": "application/json", "backup": "application/octet-stream",
}

// schemaOf is a reference to t's schema, entered in all.
func schemaOf(t reflect.Type, all map[string]any) any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return map[string]any{"description": "Any JSON"}
	case t == reflect.TypeFor[api.Capability]():
		return map[string]any{"oneOf": []any{map[string]any{"type": "string", "description": "action:target"}, structRef(t, all)}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem(), all)
	case reflect.Struct:
		return structRef(t, all)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return map[string]any{"type": "string", "contentEncoding": "base64"}
		}
		return map[string]any{"type": "array", "items": schemaOf(t.Elem(), all)}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), all)}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.String:
		return map[string]any{"type": "string"}
	}
	return map[string]any{"type": "integer"}
}

func structRef(t reflect.Type, all map[string]any) any {
	name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
	ref := map[string]any{"$ref": "#/components/schemas/" + name}
	if _, ok := all[name]; ok {
		return ref
	}
	props, required := map[string]any{}, []string{}
	all[name] = nil // a type that contains itself ends here
	addFields(t, props, &required, all)
	s := map[string]any{"type": "object", "properties": props}
	if len(required) > 0 {
		s["required"] = required
	}
	all[name] = s
	return ref
}

func addFields(t reflect.Type, props map[string]any, required *[]string, all map[string]any) {
	for _, f := range fieldsOf(t) {
		s := schemaOf(f.typ, all)
		if m, ok := s.(map[string]any); ok && m["$ref"] == nil {
			if d := f.Tag.Get("doc"); d != "" {
				m["description"] = d
			}
			if e := f.Tag.Get("enum"); e != "" {
				m["enum"] = strings.Split(e, ",")
			}
		}
		props[f.name] = s
		if !f.optional {
			*required = append(*required, f.name)
		}
	}
}

// llms is what an agent needs to know to begin.
const llms = `# Quorate

> Coordination for fleets of AI agents: submit tasks, lease work you can do, end it with the epoch you were given.

Everything is JSON over HTTP; GET /openapi.json describes all of it. Errors are problem JSON: "layer" says where, "code" what,
"retry" whether to repeat (no, later, same_key: repeat with the same idempotency key or epoch, it is never done twice).

1. Register: POST /v1/agents/register {"agent_id":"me","capabilities":["vet:go"]}
2. Take work: POST /v1/leases {"agent_id":"me","max":1,"wait_seconds":30} -> {"tasks":[{"task_id","epoch","input",...}]}
3. While working: POST /v1/tasks/{task_id}/renew {"agent_id":"me","epoch":E} before lease_seconds are over
4. End it: POST /v1/tasks/{task_id}/complete {"agent_id":"me","epoch":E,"result":...} or .../fail {"error":"why"}
   A stale_lease answer means that the task was given to someone else: stop, and undo nothing that the epoch did not fence.
5. Give work: POST /v1/tasks {"action":"vet","target":"go","input":{...},"idempotency_key":"..."}; GET /v1/tasks/{task_id}?wait=30s
6. Follow what happens: GET /v1/events (server-sent events; Last-Event-ID goes on where you were). Agents that stay can use the
   stream quorate.v1.Work (Connect, gRPC) on the same port: tasks are pushed, leases renewed for you.
`
