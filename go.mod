module github.com/ellm-gpu/ellm-gpu

go 1.26
