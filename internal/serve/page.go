package serve

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed page
var pageFiles embed.FS

// policy lets the page load its own files and ask its own server, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (s *Server) pageRoutes(m *http.ServeMux) {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return // the folder is embedded
	}
	serve := http.FileServerFS(files)
	for _, path := range []string{"GET /{$}", "GET /page.css", "GET /page.js", "GET /markdown.js", "GET /icon.svg"} {
		m.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Security-Policy", policy)
			w.Header().Set("Referrer-Policy", "no-referrer")
			w.Header().Set("Cache-Control", "no-cache")
			serve.ServeHTTP(w, r)
		})
	}
}

// openPath reports whether a path holds nothing that an API key protects: the page's own files.
func openPath(r *http.Request) bool {
	switch r.URL.Path {
	case "/", "/page.css", "/page.js", "/markdown.js", "/icon.svg":
		return true
	}
	return false
}
