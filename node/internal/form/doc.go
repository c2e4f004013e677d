// Package form makes one cluster out of nodes that have never met.
package form
