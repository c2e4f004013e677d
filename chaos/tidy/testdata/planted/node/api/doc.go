// Package api breaks rules.
package api
