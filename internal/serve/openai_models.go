package serve

import (
	"errors"
	"net/http"
)

type modelOut struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func modelOf(m ModelInfo) modelOut { return modelOut{m.Name, "model", m.Modified.Unix(), "ellm-gpu"} }

func (s *Server) listModels(w http.ResponseWriter, r *http.Request) {
	list, err := s.opt.Library.List()
	if err != nil {
		s.opt.Log.Warn("listing models", "error", err) // those that can be read are told
	}
	data := []modelOut{}
	for _, m := range list {
		data = append(data, modelOf(m))
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": data})
}

func (s *Server) oneModel(w http.ResponseWriter, r *http.Request) {
	name, err := s.opt.Library.Find(r.PathValue("name"))
	if err != nil {
		s.failWith(w, r, err)
		return
	}
	list, err := s.opt.Library.List()
	for _, m := range list {
		if m.Name == name {
			writeJSON(w, http.StatusOK, modelOf(m))
			return
		}
	}
	s.failWith(w, r, errors.Join(ErrNoModel, err)) // it went between the two calls
}
